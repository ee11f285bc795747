// What the page asks the fleet manager. A change carries the second half of the session, which only this page knows.
export let me = { role: 'nobody', signed_in: false };
const rank = ['nobody', 'viewer', 'publisher', 'operator', 'admin'];
export const may = role => me.signed_in && rank.indexOf(me.role) >= rank.indexOf(role);

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function answer(r) {
  const text = await r.text();
  let data = null;
  try { data = JSON.parse(text); } catch { /* said below */ }
  if (!r.ok) { throw new Refused(r.status, data?.error || `the fleet manager answered ${r.status}`); }
  return data;
}

export const get = async (path, signal) => answer(await fetch(path, { credentials: 'same-origin', signal }));

export const post = async (path, body) => answer(await fetch(path, {
  method: 'POST', credentials: 'same-origin', body: typeof body === 'string' ? body : JSON.stringify(body),
  headers: { 'Content-Type': 'application/json', 'X-Csrf-Token': me.csrf || '' },
}));

export async function whoAmI() {
  try { me = await get('/data/me'); } catch (e) {
    if (e.status !== 401) { throw e; }
    me = { role: 'nobody', signed_in: false };
  }
  return me;
}
export async function signIn(token) { me = await post('/sign-in', { token }); return me; }
export async function signOut() { await post('/sign-out', {}); return whoAmI(); }

// upload sends a file and tells how far it is; hashing and copying on the other side count as the second half.
export function upload(file, query, progress) {
  return new Promise((done, failed) => {
    const x = new XMLHttpRequest();
    let seen = 0, last = null;
    x.open('PUT', '/api/v1/assets/upload?' + new URLSearchParams(query));
    x.setRequestHeader('Content-Type', 'application/octet-stream');
    x.setRequestHeader('Accept', 'application/x-ndjson');
    x.setRequestHeader('X-Csrf-Token', me.csrf || '');
    x.upload.onprogress = e => progress('Sending', e.loaded, e.total);
    x.onprogress = () => {
      const lines = x.responseText.slice(seen).split('\n');
      seen = x.responseText.length - lines.pop().length;
      for (const line of lines) {
        try { last = JSON.parse(line); } catch { continue; }
        if (last.total) { progress('Hashing', last.done, last.total); }
      }
    };
    x.onerror = () => failed(new Refused(0, 'the connection broke'));
    x.onload = () => {
      x.onprogress();
      try { last = JSON.parse(x.responseText.trim().split('\n').pop()); } catch { /* said below */ }
      if (x.status !== 200 || !last || last.error) { failed(new Refused(x.status, last?.error || `the fleet manager answered ${x.status}`)); return; }
      done(last);
    };
    x.send(file);
  });
}
