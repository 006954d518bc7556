"use strict";
// All that comes from records reaches the page as text: nothing here makes HTML of it.

const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
