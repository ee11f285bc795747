// Pieces that all views share. A view returns a tree; morph makes the page look like it without losing focus.
const b = window.boxd;
export const { h, s, bytes, rate, span, clock, when, time } = b;
b.offset = -new Date().getTimezoneOffset() * 60; // an operator's clock, not a box's

export const count = n => (n ?? 0).toLocaleString('en-GB');
export const percent = (n, of) => {
  if (!of) { return '–'; }
  const p = 100 * n / of;
  return (p > 99.9 && p < 100 ? '99.9' : p > 0 && p < 0.1 ? '0.1' : p % 1 < 0.05 || p >= 99.95 ? Math.round(p) : p.toFixed(1)) + ' %';
};
export const ago = (t, now = Date.now()) => {
  const d = (now - time(t)) / 1000;
  return !t ? 'never' : d < 5 ? 'just now' : span(d) + ' ago';
};
export const plural = (n, one, many = one + 's') => count(n) + ' ' + (n === 1 ? one : many);
export const link = (href, text, attrs) => h('a', { href, ...attrs }, [text]);
export const query = params => {
  const q = new URLSearchParams(Object.entries(params).filter(([, v]) => v));
  return q.size ? '?' + q : '';
};

export const section = (id, title, kids, { wide, extra, level } = {}) =>
  h('section', { id, class: wide ? 'wide' : null, 'aria-labelledby': id + '-title' }, [
    h('div', { class: 'title' }, [h(level || 'h2', { id: id + '-title' }, [title]), extra]), ...kids]);

export const facts = list => h('dl', { class: 'facts' }, list.filter(Boolean).map(([name, value, note, cls]) =>
  h('div', { class: cls }, [h('dt', {}, [name]), h('dd', {}, [value, note && h('small', {}, [note])])])));

export const pill = (text, cls) => h('span', { class: 'pill ' + (cls || '') }, [text]);

export const parts = {
  ready: 'arrived', working: 'on the way', offline: 'offline', failed: 'failed',
};
// shares draws a bar of parts; the widths are set after it is in the page, as the policy forbids style attributes.
export const shares = (n, total, label) => h('div', {
  class: 'bar shares', role: 'img', 'aria-label': label + ': ' + Object.keys(parts).map(k => `${count(n[k])} ${parts[k]}`).join(', '),
}, Object.keys(parts).map(k => h('i', { class: k, 'data-width': total ? 100 * n[k] / total : 0 })));

export const legend = list => h('ul', { class: 'legend' }, list.map(([cls, text]) => h('li', { class: cls }, [text])));

export const states = { running: 'fetching', paused: 'paused', aborted: 'attention', drafted: 'waiting', ended: 'paused' };

export function widths(root) {
  for (const el of root.querySelectorAll('[data-width]')) { el.style.width = el.dataset.width + '%'; }
}

// morph changes `old` into `fresh`, node by node. Elements with data-keep belong to somebody else: charts and forms.
export function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.dataset?.key !== fresh.dataset?.key) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) { old.data = fresh.data; }
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== 'style' && name !== 'open') { old.removeAttribute(name); }
  }
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value) { old.setAttribute(name, value); }
  }
  if (!fresh.hasAttribute('data-keep')) { children(old, [...fresh.childNodes]); }
}
export function children(parent, fresh) {
  const had = [...parent.childNodes];
  fresh.forEach((node, i) => { if (had[i]) { morph(had[i], node); } else { parent.append(node); } });
  had.slice(fresh.length).forEach(node => node.remove());
}

// dialog asks; it resolves to the form's values, or to null when it was closed. `act` may refuse by throwing.
export function dialog({ title, body, yes, danger, act }) {
  const el = document.getElementById('dialog');
  const alert = h('p', { role: 'alert' });
  const ok = h('button', { type: 'submit', class: danger ? 'danger' : null }, [yes]);
  const form = h('form', { method: 'dialog' }, [
    h('h2', { id: 'dialog-title' }, [title]), ...body, alert,
    h('div', { class: 'buttons' }, [h('button', { type: 'button', class: 'quiet', onclick: () => el.close() }, ['Cancel']), ok]),
  ]);
  b.clear(el).append(form);
  return new Promise(done => {
    el.onclose = () => { if (!el.open) { done(null); } }; // the event comes late: it may be of the dialog before this one
    form.addEventListener('submit', async e => {
      e.preventDefault();
      ok.disabled = true;
      try {
        const result = await act(Object.fromEntries(new FormData(form)));
        el.onclose = null;
        el.close();
        done(result ?? true);
      } catch (err) {
        alert.textContent = err.message;
        ok.disabled = false;
      }
    });
    el.showModal();
    (form.querySelector('input, textarea') || form.querySelector('button')).focus();
  });
}

// signing tells how a draft gets its signature elsewhere; the input `back` brings it home. `done` frees the file.
export function signing(draft, id, key, whose, back) {
  const name = `draft-${id.slice(0, 24)}.json`;
  const url = URL.createObjectURL(new Blob([JSON.stringify(draft, null, 2)], { type: 'application/json' }));
  const steps = h('ol', { class: 'steps' }, [
    h('li', {}, [h('a', { id: 'draft-file', href: url, download: name }, ['Download ' + name]), ` and carry it to the machine with ${whose}.`]),
    h('li', {}, ['Sign it there: ', h('code', {}, [`fleetd keys sign ${name} ${key}`])]),
    h('li', {}, [h('label', { for: 'signed' }, ['Bring it back: ']), back]),
  ]);
  return { steps, done: () => URL.revokeObjectURL(url) };
}

let hide = 0;
export function toast(text) {
  const el = document.getElementById('toast');
  el.hidden = false;
  el.textContent = text;
  clearTimeout(hide);
  hide = setTimeout(() => { el.hidden = true; }, 6000);
}
