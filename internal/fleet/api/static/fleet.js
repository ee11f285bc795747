"use strict";
const bytes = n => {
  const u = ["B", "kB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 1000 && i < u.length - 1) { n /= 1000; i++; }
  return (i ? n.toFixed(1) : n) + " " + u[i];
};
const get = async path => {
  const r = await fetch("/api/v1/" + path);
  if (!r.ok) throw new Error((await r.json()).error);
  return r.json();
};
const fill = (id, rows) => {
  const body = document.querySelector("#" + id + " tbody");
  body.replaceChildren(...rows.map(cells => {
    const tr = document.createElement("tr");
    for (const c of cells) {
      const td = document.createElement("td");
      td.textContent = c;
      if (typeof c === "number" || /^[\d.]+ [kMGT]?B$/.test(c)) td.className = "n";
      tr.append(td);
    }
    return tr;
  }));
};
const refresh = async () => {
  try {
    const [fleet, campaigns, boxes, alerts] = await Promise.all(
      [get("fleet"), get("campaigns"), get("boxes?limit=500"), get("alerts?limit=200")]);
    document.querySelector("#fleet").textContent = fleet.id;
    document.querySelector("#summary").textContent =
      `${fleet.online} of ${fleet.boxes} boxes are online; ${fleet.at_risk} may miss a deadline.`;
    fill("campaigns", campaigns.map(c => {
      const n = c.counts || {};
      return [c.name || c.id, c.group, c.state + (c.why ? ": " + c.why : ""), `${n.ready ?? 0} of ${n.included ?? 0}`,
        n.working ?? 0, n.failed ?? 0, n.offline ?? 0, n.at_risk ?? 0];
    }));
    fill("boxes", boxes.map(b => [b.id, b.group, b.online ? "online" : "offline",
      `${b.holdings} ready, ${b.unfinished} on the way`, bytes(b.lan), bytes(b.peer), bytes(b.origin), b.codes || "none"]));
    fill("alerts", alerts.map(a => [a.since, a.box || "the fleet", a.code, a.text]));
  } catch (e) {
    document.querySelector("#summary").textContent = "The fleet manager did not answer: " + e.message;
  }
};
refresh();
setInterval(refresh, 5000);
