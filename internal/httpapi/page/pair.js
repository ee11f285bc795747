'use strict';
document.getElementById('form').addEventListener('submit', function (e) {
  e.preventDefault();
  var answer = document.getElementById('answer');
  answer.textContent = '';
  fetch('/pair', {
    method: 'POST', headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ code: document.getElementById('code').value })
  }).then(function (r) {
    if (r.ok) { location.href = '/'; return; }
    return r.json().then(function (b) { answer.textContent = b.error.text; });
  }).catch(function () { answer.textContent = 'The box does not answer.'; });
});
