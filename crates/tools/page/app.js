// The page: reads the form, shows the seed that comes of it, orders the image.

import { requestFrom } from "./seeds.js";
import { makeIdentity } from "./certificate.js";

const $ = (id) => document.getElementById(id);
const form = $("form");

/** Milliseconds without typing after which the seed is shown anew. */
const QUIET = 250;

function values() {
  const text = (id) => $(id).value.trim();
  const chosen = (name) => form.querySelector(`input[name="${name}"]:checked`).value;
  const yaml = {};
  for (const area of form.querySelectorAll("[data-seed]")) yaml[area.dataset.seed] = area.value;
  return {
    type: chosen("type"),
    usage: chosen("usage"),
    architecture: text("architecture"),
    application: text("application"),
    channel: text("channel"),
    security: text("security"),
    offline: $("offline").checked && !$("offline").disabled,
    forceInstall: $("force-install").checked,
    confirmation: text("confirmation"),
    forceReboot: $("force-reboot").checked,
    target: { id: text("target-id"), bus: text("target-bus"), min: text("target-min"), max: text("target-max"), order: text("target-order") },
    certificate: text("certificate"),
    applyDefaults: $("apply-defaults").checked,
    oidc: { issuer: text("oidc-issuer"), client: text("oidc-client"), scopes: text("oidc-scopes"), claim: text("oidc-claim") },
    yaml,
  };
}

/** What can be chosen depends on what was chosen. */
function arrange() {
  const run = form.querySelector('input[name="usage"][value="run"]');
  const isIso = form.querySelector('input[name="type"]:checked').value === "iso";
  if (isIso && run.checked) form.querySelector('input[name="usage"][value="install"]').checked = true;
  run.disabled = isIso;
  const installs = !run.checked;
  // Disabled controls are neither reachable nor read out.
  $("target").disabled = !installs;
  $("security").disabled = !installs;
  $("offline").disabled = isIso;
  $("confirmation-field").hidden = !$("force-install").checked;
  $("defaults-field").hidden = !$("application").value.startsWith("incus");
}

async function call(path, body, signal) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, { ...options, signal });
  const answer = await response.json();
  if (answer.type !== "sync") throw new Error(answer.error || `the server answered ${response.status}`);
  return answer.metadata;
}

function list(place, texts) {
  place.replaceChildren();
  if (texts.length === 0) return;
  const ul = document.createElement("ul");
  for (const text of texts) {
    const li = document.createElement("li");
    li.textContent = text;
    ul.append(li);
  }
  place.append(ul);
}

let waiting;
let asking = new AbortController();

function changed() {
  arrange();
  document.body.dataset.preview = "pending";
  // An answer to what was filled in before must not be taken for one to this.
  asking.abort();
  clearTimeout(waiting);
  waiting = setTimeout(preview, QUIET);
}

async function preview() {
  asking = new AbortController();
  try {
    const { files, findings } = await call("/1.0/seeds", requestFrom(values()), asking.signal);
    show(files);
    list($("findings"), findings);
  } catch (error) {
    if (error.name === "AbortError") return;
    list($("findings"), [error.message]);
  }
  document.body.dataset.preview = "shown";
}

function show(files) {
  const place = $("files");
  const at = place.scrollTop;
  place.replaceChildren();
  for (const { name, content } of files) {
    const title = document.createElement("h3");
    title.textContent = name;
    const pre = document.createElement("pre");
    pre.textContent = content;
    pre.dataset.file = name;
    place.append(title, pre);
  }
  place.scrollTop = at;
}

/** Says at the certificate what is wrong with it. */
function certificateIsThere() {
  const area = $("certificate");
  const missing = !/^-----BEGIN CERTIFICATE-----\s/.test(area.value.trim());
  area.setAttribute("aria-invalid", String(missing));
  $("certificate-error").hidden = !missing;
  $("certificate-error").textContent = missing ? "Enter a certificate, or make a new one: without it nobody could reach the machine." : "";
  if (missing) area.focus();
  return !missing;
}

async function order(event) {
  event.preventDefault();
  const button = $("download");
  if (button.getAttribute("aria-disabled") === "true") return;
  list($("problem"), []);
  $("status").textContent = "";
  if (!certificateIsThere()) return;
  button.setAttribute("aria-disabled", "true");
  $("status").textContent = "Asking for the image …";
  try {
    const { image, resources } = await call("/1.0/images", requestFrom(values()));
    save(image);
    if (resources) save(resources);
    $("status").textContent = "The download has started. The address is good once: to download again, press the button again.";
  } catch (error) {
    $("status").textContent = "";
    list($("problem"), error.message.replace(/^seeds: /, "").split("; "));
  }
  button.removeAttribute("aria-disabled");
}

function save(address, name = "") {
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
}

async function generate() {
  const button = $("generate");
  button.setAttribute("aria-disabled", "true");
  $("status").textContent = "";
  try {
    // Browsers have cryptography on https and on the same machine only.
    const identity = globalThis.crypto?.subtle ? await makeIdentity() : await fromServer();
    $("certificate").value = identity.certificate;
    offer(identity);
    certificateIsThere();
    $("status").textContent = "A new certificate was filled in. Save its three files.";
    changed();
  } catch (error) {
    list($("problem"), [`No certificate could be made: ${error.message}`]);
  }
  button.removeAttribute("aria-disabled");
}

async function fromServer() {
  const { certificate, key, pfx } = await call("/1.0/certificate");
  $("certificate-hint").textContent = "The key was made by the server, because this page was not loaded over https.";
  return { certificate, key, pfx: Uint8Array.from(atob(pfx), (c) => c.charCodeAt(0)) };
}

let addresses = [];

function offer(identity) {
  addresses.forEach((address) => URL.revokeObjectURL(address));
  addresses = [];
  $("identity-files").replaceChildren();
  for (const [name, content] of [["client.crt", identity.certificate], ["client.key", identity.key], ["client.pfx", identity.pfx]]) {
    const address = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
    addresses.push(address);
    const link = document.createElement("a");
    link.href = address;
    link.download = name;
    link.textContent = name;
    const item = document.createElement("li");
    item.append(link);
    $("identity-files").append(item);
  }
  $("identity").hidden = false;
}

form.addEventListener("input", changed);
// Some ways to choose from a list, and to fill a form in from outside, tell of the change only.
form.addEventListener("change", changed);
form.addEventListener("submit", order);
$("generate").addEventListener("click", generate);
changed();
