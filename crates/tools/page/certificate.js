// A key and a self-signed client certificate, made by the browser. The key leaves it only in the
// files that the visitor saves.

const encoder = new TextEncoder();

/** Password of the PKCS #12 file: browsers do not import one without. */
const PASSWORD = "IncusOS";

/** Steps that turn the password into a key. */
const ROUNDS = 2048;

/** PEM of the certificate and of the key, and both as PKCS #12. */
export async function makeIdentity() {
  const keys = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-384" }, true, ["sign", "verify"]);
  const certificate = await selfSigned(keys);
  const key = new Uint8Array(await crypto.subtle.exportKey("pkcs8", keys.privateKey));
  return { certificate: pem("CERTIFICATE", certificate), key: pem("PRIVATE KEY", key), pfx: await pkcs12(key, certificate) };
}

// DER, as far as it is needed.

function concat(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function tlv(tag, ...parts) {
  const content = concat(parts);
  const length = [];
  for (let rest = content.length; rest > 0; rest >>= 8) length.unshift(rest & 0xff);
  const head = content.length < 0x80 ? [tag, content.length] : [tag, 0x80 | length.length, ...length];
  return concat([Uint8Array.from(head), content]);
}

const sequence = (...parts) => tlv(0x30, ...parts);
const set = (...parts) => tlv(0x31, ...parts);
const octets = (bytes) => tlv(0x04, bytes);
const bits = (bytes, unused = 0) => tlv(0x03, Uint8Array.of(unused), bytes);
const utf8 = (text) => tlv(0x0c, encoder.encode(text));
const explicit = (number, ...parts) => tlv(0xa0 | number, ...parts);
const NULL = Uint8Array.of(0x05, 0);
const TRUE = Uint8Array.of(0x01, 1, 0xff);

/** A number that is not negative, from its bytes. */
function integer(bytes) {
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start += 1;
  const rest = bytes.subarray(start);
  return rest[0] & 0x80 ? tlv(0x02, Uint8Array.of(0), rest) : tlv(0x02, rest);
}

function number(value) {
  return integer(Uint8Array.of(value >> 24, value >> 16, value >> 8, value));
}

function oid(text) {
  const [first, second, ...rest] = text.split(".").map(Number);
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const groups = [arc & 0x7f];
    for (let more = arc >>> 7; more > 0; more >>>= 7) groups.unshift(0x80 | (more & 0x7f));
    bytes.push(...groups);
  }
  return tlv(0x06, Uint8Array.from(bytes));
}

/** Until 2049 with two digits of the year, RFC 5280. */
function time(date) {
  const digits = date.toISOString().replace(/[-:T]|\.\d+/g, "");
  return date.getUTCFullYear() < 2050 ? tlv(0x17, encoder.encode(digits.slice(2))) : tlv(0x18, encoder.encode(digits));
}

function pem(label, der) {
  const text = btoa(String.fromCharCode(...der)).replace(/.{64}/g, "$&\n").trimEnd();
  return `-----BEGIN ${label}-----\n${text}\n-----END ${label}-----\n`;
}

function random(length) {
  return crypto.getRandomValues(new Uint8Array(length));
}

// X.509

const ECDSA_SHA384 = sequence(oid("1.2.840.10045.4.3.3"));

async function selfSigned(keys) {
  const spki = new Uint8Array(await crypto.subtle.exportKey("spki", keys.publicKey));
  const attribute = (type, text) => set(sequence(oid(type), utf8(text)));
  const name = sequence(attribute("2.5.4.10", "Linux Containers"), attribute("2.5.4.3", "Auto-generated IncusOS client certificate"));
  const start = new Date();
  const end = new Date(start.getTime() + 3650 * 24 * 3600 * 1000);
  const serial = random(16);
  serial[0] = (serial[0] & 0x3f) | 0x40;
  const extension = (type, critical, value) => sequence(oid(type), ...(critical ? [TRUE] : []), octets(value));
  const extensions = sequence(
    // digitalSignature and keyEncipherment.
    extension("2.5.29.15", true, bits(Uint8Array.of(0xa0), 5)),
    extension("2.5.29.37", false, sequence(oid("1.3.6.1.5.5.7.3.2"))),
    extension("2.5.29.17", false, sequence(tlv(0x82, encoder.encode("unspecified")))),
  );
  const version = explicit(0, number(2));
  const validity = sequence(time(start), time(end));
  const body = sequence(version, integer(serial), ECDSA_SHA384, name, validity, name, spki, explicit(3, extensions));
  const raw = new Uint8Array(await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-384" }, keys.privateKey, body));
  const half = raw.length / 2;
  const signature = sequence(integer(raw.subarray(0, half)), integer(raw.subarray(half)));
  return sequence(body, ECDSA_SHA384, bits(signature));
}

// PKCS #12 (RFC 7292) with PBES2: AES-256-CBC, PBKDF2 and HMAC with SHA-256.

async function pkcs12(key, certificate) {
  const id = new Uint8Array(await crypto.subtle.digest("SHA-256", certificate));
  const attributes = set(sequence(oid("1.2.840.113549.1.9.21"), set(octets(id))));
  const x509 = sequence(oid("1.2.840.113549.1.9.22.1"), explicit(0, octets(certificate)));
  const certificateBag = sequence(oid("1.2.840.113549.1.12.10.1.3"), explicit(0, x509), attributes);
  const keyBag = sequence(oid("1.2.840.113549.1.12.10.1.2"), explicit(0, await encrypted(key)), attributes);
  const data = (content) => sequence(oid("1.2.840.113549.1.7.1"), explicit(0, octets(content)));
  const safe = sequence(data(sequence(certificateBag)), data(sequence(keyBag)));
  const salt = random(16);
  const mac = await hmac(await macKey(salt), safe);
  const sha256 = sequence(oid("2.16.840.1.101.3.4.2.1"), NULL);
  return sequence(number(3), data(safe), sequence(sequence(sha256, octets(mac)), octets(salt), number(ROUNDS)));
}

async function encrypted(key) {
  const salt = random(16);
  const iv = random(16);
  const password = await crypto.subtle.importKey("raw", encoder.encode(PASSWORD), "PBKDF2", false, ["deriveKey"]);
  const derivation = { name: "PBKDF2", hash: "SHA-256", salt, iterations: ROUNDS };
  const aes = await crypto.subtle.deriveKey(derivation, password, { name: "AES-CBC", length: 256 }, false, ["encrypt"]);
  const text = new Uint8Array(await crypto.subtle.encrypt({ name: "AES-CBC", iv }, aes, key));
  const hmacSha256 = sequence(oid("1.2.840.113549.2.9"), NULL);
  const pbkdf2 = sequence(oid("1.2.840.113549.1.5.12"), sequence(octets(salt), number(ROUNDS), hmacSha256));
  const cipher = sequence(oid("2.16.840.1.101.3.4.1.42"), octets(iv));
  return sequence(sequence(oid("1.2.840.113549.1.5.13"), sequence(pbkdf2, cipher)), octets(text));
}

/** RFC 7292, appendix B. One block of SHA-256 is all that is needed, so nothing is carried over. */
async function macKey(salt) {
  const filled = (bytes) => Uint8Array.from({ length: Math.ceil(bytes.length / 64) * 64 }, (_, at) => bytes[at % bytes.length]);
  const password = Uint8Array.from([...PASSWORD, "\0"].flatMap((c) => [c.charCodeAt(0) >> 8, c.charCodeAt(0) & 0xff]));
  let block = concat([new Uint8Array(64).fill(3), filled(salt), filled(password)]);
  for (let round = 0; round < ROUNDS; round += 1) block = new Uint8Array(await crypto.subtle.digest("SHA-256", block));
  return block;
}

async function hmac(key, bytes) {
  const imported = await crypto.subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, bytes));
}
