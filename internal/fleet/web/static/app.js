// The dashboard's frame: which view is shown, when it is asked again, who is signed in.
import { me, whoAmI, signIn, signOut } from './api.js';
import { h, children, widths, dialog, toast, clock, ago } from './ui.js';
import overview from './overview.js';
import * as campaigns from './campaigns.js';
import * as boxes from './boxes.js';
import publish from './publish.js';

const routes = [
  [/^\/?$/, overview], [/^\/campaigns$/, campaigns.list], [/^\/campaigns\/(?<id>[^/]+)$/, campaigns.one],
  [/^\/boxes$/, boxes.list], [/^\/boxes\/(?<id>[^/]+)$/, boxes.one], [/^\/publish$/, publish],
];
const main = document.getElementById('main'), status = document.getElementById('link'), sign = document.getElementById('sign');
let view = null, params = {}, data = null, timer = 0, asking = null, shown = '';

function route() {
  const [path, search = ''] = location.hash.slice(1).split('?');
  for (const [re, v] of routes) {
    const m = re.exec(path);
    if (m) {
      const ids = Object.fromEntries(Object.entries(m.groups || {}).map(([k, x]) => [k, decodeURIComponent(x)]));
      return [v, { ...Object.fromEntries(new URLSearchParams(search)), ...ids }];
    }
  }
  return [overview, {}];
}

async function go() {
  [view, params] = route();
  data = null;
  const first = location.hash.slice(1).split(/[/?]/)[1] || '';
  for (const a of document.querySelectorAll('#nav a')) {
    const on = (a.hash.slice(2) || '') === first;
    if (on) { a.setAttribute('aria-current', 'page'); } else { a.removeAttribute('aria-current'); }
  }
  const moved = shown !== '' && shown !== location.hash;
  shown = location.hash || '#/';
  await load(true);
  if (moved) { scrollTo(0, 0); main.focus({ preventScroll: true }); }
}

async function load(fresh) {
  clearTimeout(timer);
  asking?.abort();
  const mine = asking = new AbortController(), v = view;
  try {
    const got = v.load ? await v.load(params) : null;
    if (mine.signal.aborted || v !== view) { return; }
    data = got;
    draw(fresh);
    const at = v.asOf?.(data);
    status.className = 'link';
    status.textContent = at && Date.now() - at > 30000 ? 'counted ' + ago(at) : clock(Date.now());
    const name = v.fleet?.(data);
    if (name) { document.getElementById('fleet-name').textContent = name; }
  } catch (e) {
    if (mine.signal.aborted || v !== view) { return; }
    failed(e, fresh);
  }
  if (v.every) { timer = setTimeout(() => { if (document.hidden) { timer = 0; } else { load(false); } }, v.every); }
}

function draw(fresh) {
  const tree = view.render(data, params, me).filter(Boolean);
  if (fresh) { main.replaceChildren(...tree); } else { children(main, tree); }
  widths(main);
  view.after?.(data, params);
  document.title = view.title(data) + ' · ' + document.getElementById('fleet-name').textContent;
}

function failed(e, fresh) {
  status.className = 'link down';
  status.textContent = e.status ? 'refused' : 'no answer';
  if (e.status === 401) { main.replaceChildren(h('section', { class: 'wide' }, [h('h1', {}, ['Sign in to see the fleet']), h('p', { class: 'muted' }, ['You need a token: an operator makes one with “fleetd user add”.']), h('p', {}, [h('button', { type: 'button', 'data-do': 'sign-in' }, ['Sign in'])])])); return; }
  if (fresh || !data) { main.replaceChildren(h('section', { class: 'wide' }, [h('h1', {}, [e.status === 404 ? 'There is nothing here' : 'That did not work']), h('p', { class: 'muted' }, [e.message])])); }
}

const reload = () => load(false);

async function signInDialog() {
  const done = await dialog({
    title: 'Sign in', yes: 'Sign in',
    body: [h('p', { class: 'muted' }, ['With your token, or the one in the file api-token of the fleet manager.']),
      h('label', { for: 'token' }, ['Token']), h('input', { id: 'token', name: 'token', type: 'password', autocomplete: 'current-password', required: '' })],
    act: v => signIn(v.token.trim()),
  });
  if (done) { who(); await load(true); }
}

function who() {
  sign.textContent = me.signed_in ? `${me.name} · sign out` : 'Sign in';
  sign.title = me.signed_in ? `signed in as ${me.role}` : '';
}

sign.addEventListener('click', async () => {
  if (!me.signed_in) { await signInDialog(); return; }
  await signOut();
  who();
  await load(true);
});

document.addEventListener('click', async e => {
  const el = e.target.closest('[data-do]');
  if (!el) { return; }
  if (el.dataset.do === 'sign-in') { await signInDialog(); return; }
  try { await view.actions?.[el.dataset.do]?.(el.dataset.arg, reload, data); } catch (err) { toast(err.message); }
});
document.addEventListener('submit', e => {
  if (!e.target.dataset.form) { return; }
  e.preventDefault();
  view.submit?.(e.target.dataset.form, Object.fromEntries(new FormData(e.target)), e.target);
});
document.addEventListener('visibilitychange', () => { if (!document.hidden && view) { load(false); } });
addEventListener('hashchange', go);
let sized = 0;
addEventListener('resize', () => { clearTimeout(sized); sized = setTimeout(() => { if (data) { view.after?.(data, params); } }, 100); });

whoAmI().catch(() => {}).then(() => { who(); return go(); });
