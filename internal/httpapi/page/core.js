'use strict';
// Helpers of the status page: elements, formats, the box's own time. ECMAScript 2015, for old televisions.
var boxd = {};
(function (b) {
  var svgNS = 'http://www.w3.org/2000/svg';

  b.$ = function (id) { return document.getElementById(id); };

  function fill(el, attrs, kids) {
    Object.keys(attrs || {}).forEach(function (k) {
      if (k === 'text') { el.textContent = attrs[k]; }
      else if (k.slice(0, 2) === 'on') { el.addEventListener(k.slice(2), attrs[k]); }
      else if (attrs[k] !== null && attrs[k] !== undefined && attrs[k] !== false) { el.setAttribute(k, attrs[k]); }
    });
    (kids || []).forEach(function (kid) {
      if (kid !== null && kid !== undefined && kid !== '') {
        el.appendChild(typeof kid === 'string' ? document.createTextNode(kid) : kid);
      }
    });
    return el;
  }
  b.h = function (tag, attrs, kids) { return fill(document.createElement(tag), attrs, kids); };
  b.s = function (tag, attrs, kids) { return fill(document.createElementNS(svgNS, tag), attrs, kids); };
  b.clear = function (el) { while (el.firstChild) { el.removeChild(el.firstChild); } return el; };

  b.bytes = function (n) {
    var units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'], i = 0;
    while (n >= 1023.5 && i < units.length - 1) { n /= 1024; i++; }
    return (i === 0 || n >= 99.95 ? Math.round(n) : n.toFixed(n < 9.995 ? 2 : 1)) + ' ' + units[i];
  };
  b.rate = function (perSecond) {
    var mbit = perSecond * 8 / 1e6;
    return (mbit >= 99.95 ? Math.round(mbit) : mbit >= 0.05 || mbit === 0 ? mbit.toFixed(1) : mbit.toFixed(3)) + ' Mbit/s';
  };
  b.span = function (seconds) {
    if (seconds < 90) { return Math.max(0, Math.round(seconds)) + ' s'; }
    if (seconds < 5400) { return Math.round(seconds / 60) + ' min'; }
    if (seconds < 172800) { return Math.floor(seconds / 3600) + ' h ' + ('0' + Math.floor(seconds / 60) % 60).slice(-2) + ' min'; }
    return Math.round(seconds / 86400) + ' days';
  };

  // Times are shown as the box's clock on the wall has them, wherever the browser is.
  b.offset = 0;
  b.wall = function (ms) { return new Date(ms + b.offset * 1000); };
  function two(n) { return (n < 10 ? '0' : '') + n; }
  b.clock = function (ms) { var d = b.wall(ms); return two(d.getUTCHours()) + ':' + two(d.getUTCMinutes()); };
  b.days = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
  b.when = function (ms, now) {
    var d = b.wall(ms), n = b.wall(now), midnight = Math.floor(n.getTime() / 864e5) * 864e5;
    var day = Math.floor((d.getTime() - midnight) / 864e5);
    if (day === 0) { return 'today ' + b.clock(ms); }
    if (day === 1) { return 'tomorrow ' + b.clock(ms); }
    if (day === -1) { return 'yesterday ' + b.clock(ms); }
    if (day > 1 && day < 7) { return ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'][d.getUTCDay()] + ' ' + b.clock(ms); }
    return d.getUTCDate() + ' ' + ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'][d.getUTCMonth()] + ' ' + d.getUTCFullYear();
  };
  b.time = function (s) { return s ? Date.parse(s) : 0; };

  // each keeps one child per key in the order of items, so that what is focused or moving stays.
  b.each = function (parent, items, key, create, update) {
    var old = {}, el = parent.firstChild;
    while (el) { old[el.getAttribute('data-key')] = el; el = el.nextSibling; }
    var at = parent.firstChild;
    items.forEach(function (it) {
      var k = key(it), node = old[k];
      if (node) { delete old[k]; } else { node = create(it); node.setAttribute('data-key', k); }
      update(node, it);
      if (node !== at) { parent.insertBefore(node, at); } else { at = at.nextSibling; }
    });
    Object.keys(old).forEach(function (k) { parent.removeChild(old[k]); });
  };

  // set changes text only when it differs, so that screen readers are left in peace.
  b.set = function (el, text) { if (el.textContent !== text) { el.textContent = text; } };
})(boxd);
