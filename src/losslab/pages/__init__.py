"""What the HTML pages share: their style, their policy, and the browser of samples."""
