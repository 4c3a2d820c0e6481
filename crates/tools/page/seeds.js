// From what was filled in to the request. Knows nothing of the page.

/** Body of `POST /1.0/images` for these values. Settings in YAML are sent as text. */
export function requestFrom(values) {
  const seeds = { applications: { version: "1", applications: [{ name: values.application }] } };
  const product = values.application.startsWith("incus") ? incus(values) : manager(values);
  seeds[values.application.startsWith("incus") ? "incus" : values.application] = product;
  if (values.usage === "install") seeds.install = install(values);
  for (const [name, text] of Object.entries(values.yaml)) {
    if (text.trim() !== "") seeds[name] = text;
  }
  return { architecture: values.architecture, type: values.type, channel: values.channel || "stable", offline: values.offline, seeds };
}

function install(values) {
  const { target } = values;
  const seed = {
    version: "1",
    force_install: values.forceInstall,
    force_reboot: values.forceReboot,
    target: { id: target.id, bus: target.bus, min_size: target.min, max_size: target.max, sort_order: target.order },
  };
  if (values.forceInstall && values.confirmation) seed.force_install_confirmation = values.confirmation;
  if (values.security) seed.security = { [values.security]: true };
  return seed;
}

function incus(values) {
  const preseed = {};
  const { oidc } = values;
  if (oidc.issuer) {
    preseed.config = { "oidc.issuer": oidc.issuer, "oidc.client.id": oidc.client };
    if (oidc.claim) preseed.config["oidc.claim"] = oidc.claim;
    if (oidc.scopes) preseed.config["oidc.scopes"] = oidc.scopes;
  }
  if (values.certificate) {
    preseed.certificates = [
      { name: "admin", type: "client", description: "Initial admin client", certificate: values.certificate },
    ];
  }
  return { version: "1", apply_defaults: values.applyDefaults, preseed };
}

function manager(values) {
  const seed = { version: "1", trusted_client_certificates: values.certificate ? [values.certificate] : [] };
  const { oidc } = values;
  if (oidc.issuer) {
    seed.preseed = {
      system_security: {
        oidc: { issuer: oidc.issuer, client_id: oidc.client, claim: oidc.claim, scopes: oidc.scopes },
      },
    };
  }
  return seed;
}
