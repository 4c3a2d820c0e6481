//! What can be asked for, checked as far as it can be without the tree.

use feed::Arch;
use seed::{File, Section};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// The channel of machines that are not told another one.
const DEFAULT_CHANNEL: &str = "stable";

/// Order of the files in the archive, which others rely on.
const ORDER: [Section; 12] = [
    Section::Applications,
    Section::Incus,
    Section::OperationsCenter,
    Section::MigrationManager,
    Section::Install,
    Section::Network,
    Section::Provider,
    Section::Services,
    Section::Update,
    Section::Kernel,
    Section::Security,
    Section::Storage,
];

/// A request that cannot be served. Completes "the request …".
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadRequest(pub(crate) String);

/// Body of `POST /1.0/images`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ImageRequest {
    #[serde(deserialize_with = "null_is_zero")]
    pub(crate) architecture: String,
    #[serde(rename = "type", deserialize_with = "null_is_zero")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "null_is_zero")]
    pub(crate) channel: String,
    #[serde(deserialize_with = "null_is_zero")]
    pub(crate) version: String,
    #[serde(deserialize_with = "null_is_zero")]
    pub(crate) offline: bool,
    #[serde(deserialize_with = "null_is_zero")]
    pub(crate) seeds: Map<String, Value>,
}

/// Body of `POST /1.0/updates`. An empty list is no restriction.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UpdateRequest {
    #[serde(deserialize_with = "null_is_zero")]
    pub(crate) channel: String,
    #[serde(deserialize_with = "null_is_zero")]
    pub(crate) version: String,
    #[serde(deserialize_with = "null_is_zero")]
    pub(crate) components: Vec<String>,
    #[serde(deserialize_with = "null_is_zero")]
    pub(crate) types: Vec<String>,
    #[serde(deserialize_with = "null_is_zero")]
    pub(crate) architectures: Vec<String>,
}

/// Form of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    /// For CD-ROM drives, real or virtual.
    Iso,
    /// For everything else.
    Raw,
}

/// An image that can be made, provided that the tree has it.
pub(crate) struct Order {
    pub(crate) arch: Arch,
    pub(crate) medium: Medium,
    pub(crate) channel: String,
    pub(crate) version: String,
    /// Whether the applications are wanted as a second medium.
    pub(crate) offline: bool,
    /// What the seed installs.
    pub(crate) applications: Vec<String>,
    /// The seed, as it goes into the image.
    pub(crate) archive: Vec<u8>,
}

impl Order {
    /// The applications with those that they need, which a machine adds by itself.
    pub(crate) fn applications_with_needs(&self) -> Vec<String> {
        let has = |name: &str| self.applications.iter().any(|application| application == name);
        let mut all = self.applications.clone();
        if (has("incus-ceph") || has("incus-linstor")) && !has("incus") && !has("incus-lts-7.0") {
            all.push("incus".to_owned());
        }
        all.sort();
        all.dedup();
        all
    }
}

impl UpdateRequest {
    pub(crate) fn channel(&self) -> &str {
        or_default(&self.channel)
    }
}

impl ImageRequest {
    /// Checks everything and writes the seed.
    pub(crate) fn check(self) -> Result<Order, BadRequest> {
        let arch = self.architecture.parse().map_err(|error| BadRequest(format!("architecture: {error}")))?;
        let medium = match self.kind.as_str() {
            "iso" => Medium::Iso,
            "raw" => Medium::Raw,
            other => return Err(BadRequest(format!("type: unknown image type '{other}': there are iso and raw"))),
        };
        let (channel, version, offline) = (or_default(&self.channel).to_owned(), self.version.clone(), self.offline);
        let files = self.files()?;
        let (applications, findings) = checked(&files);
        if !findings.is_empty() {
            return Err(BadRequest(format!("seeds: {}", findings.join("; "))));
        }
        if medium == Medium::Iso && !files.iter().any(|file| Section::of_file(&file.name) == Some(Section::Install)) {
            let reason = "type: nothing can run from an ISO image: add an `install` seed, or ask for a raw image";
            return Err(BadRequest(reason.into()));
        }
        let archive = seed::write(&files);
        if archive.len() as u64 > media::SEED_SIZE {
            return Err(BadRequest("seeds: they are larger than the seed partition".into()));
        }
        Ok(Order { arch, medium, channel, version, offline, applications, archive })
    }

    /// The files of the seed, and what is wrong with them.
    pub(crate) fn preview(self) -> Result<(Vec<File>, Vec<String>), BadRequest> {
        let files = self.files()?;
        let (_, findings) = checked(&files);
        Ok((files, findings))
    }

    fn files(mut self) -> Result<Vec<File>, BadRequest> {
        self.seeds = sections(self.seeds)?;
        self.add_update_seed();
        ORDER
            .iter()
            .filter_map(|section| Some((section, self.seeds.get(section.name())?)))
            .map(|(section, seed)| file(*section, seed))
            .collect()
    }

    /// What the choice of a channel and of working offline means for the machine's updates.
    fn add_update_seed(&mut self) {
        let other_channel = or_default(&self.channel) != DEFAULT_CHANNEL;
        if !self.offline && !other_channel {
            return;
        }
        let name = Section::Update.name();
        if !self.seeds.contains_key(name) {
            self.seeds.insert(name.to_owned(), json!({ "version": "1" }));
        }
        let Some(Value::Object(update)) = self.seeds.get_mut(name) else {
            // Not an object: the check says so.
            return;
        };
        if self.offline {
            update.insert("check_frequency".into(), json!("never"));
        }
        // Otherwise the machine would follow the default one, and find that it is ahead of it.
        let says_nothing = |value: Option<&Value>| value.is_none_or(|value| value.is_null() || value == "");
        if other_channel && says_nothing(update.get("channel")) {
            update.insert("channel".into(), json!(self.channel));
        }
    }
}

/// The seeds that are there. `null` is the same as leaving one out, and a text is one in YAML.
fn sections(mut seeds: Map<String, Value>) -> Result<Map<String, Value>, BadRequest> {
    for (name, seed) in &mut seeds {
        if !ORDER.iter().any(|section| section.name() == name) {
            return Err(BadRequest(format!("seeds: there is no seed '{name}'")));
        }
        if let Value::String(text) = seed {
            *seed = serde_yaml::from_str(text).map_err(|error| {
                // The message may quote the text, which may hold a secret; its place is enough.
                let place = error.location().map(|at| format!(" in line {}, column {}", at.line(), at.column()));
                BadRequest(format!("seeds: {name}.yaml: it is no YAML{}", place.unwrap_or_default()))
            })?;
        }
    }
    seeds.retain(|_, seed| !seed.is_null());
    Ok(seeds)
}

fn file(section: Section, seed: &Value) -> Result<File, BadRequest> {
    let name = format!("{}.yaml", section.name());
    match serde_yaml::to_string(seed) {
        Ok(text) => Ok(File { name, content: text.into_bytes() }),
        Err(error) => Err(BadRequest(format!("seeds: {name}: {error}"))),
    }
}

/// The applications of a seed, and everything that the check has to say about it. A machine passes
/// over what it does not know; here somebody is still there to mend it.
fn checked(files: &[File]) -> (Vec<String>, Vec<String>) {
    let report = seed::check(files);
    let findings = report.errors.iter().chain(&report.warnings).map(ToString::to_string).collect();
    let applications = report.contents.applications.unwrap_or_default().applications;
    (applications.into_iter().map(|application| application.name).collect(), findings)
}

fn or_default(channel: &str) -> &str {
    if channel.is_empty() { DEFAULT_CHANNEL } else { channel }
}

fn null_is_zero<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(body: Value) -> Result<Order, String> {
        let request: ImageRequest = serde_json::from_value(body).map_err(|error| error.to_string())?;
        request.check().map_err(|error| error.to_string())
    }

    fn files(archive: &[u8]) -> Vec<(String, String)> {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, archive).unwrap();
        let files = seed::read(&file).unwrap().unwrap_or_default();
        files.into_iter().map(|file| (file.name, String::from_utf8(file.content).unwrap())).collect()
    }

    #[test]
    fn seeds_become_yaml_in_the_agreed_order() {
        let order = order(json!({
            "architecture": "x86_64", "type": "iso", "channel": null,
            "seeds": {
                "update": { "version": "1", "check_frequency": "6h" },
                "install": { "version": "1", "target": {} },
                "network": null,
                "applications": { "version": "1", "applications": [{ "name": "incus" }] },
            },
        }))
        .unwrap();
        let files = files(&order.archive);
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["applications.yaml", "install.yaml", "update.yaml"]);
        assert_eq!(files[0].1, "version: '1'\napplications:\n- name: incus\n");
        assert_eq!((order.channel.as_str(), order.applications), ("stable", vec!["incus".to_owned()]));
    }

    #[test]
    fn offline_and_other_channels_reach_the_update_seed() {
        let update = |body: Value| files(&order(body).unwrap().archive).pop().map(|(_, text)| text).unwrap_or_default();
        let base = |extra: Value| {
            let mut body = json!({ "architecture": "aarch64", "type": "raw" });
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            body
        };
        assert_eq!(update(base(json!({}))), "");
        assert_eq!(update(base(json!({ "offline": true }))), "version: '1'\ncheck_frequency: never\n");
        assert_eq!(update(base(json!({ "channel": "testing" }))), "version: '1'\nchannel: testing\n");
        let own = json!({ "channel": "testing", "seeds": { "update": { "channel": "stable", "auto_reboot": true } } });
        assert_eq!(update(base(own)), "channel: stable\nauto_reboot: true\n");
    }

    #[test]
    fn requests_that_make_no_sense_are_refused_with_their_reason() {
        for (body, reason) in [
            (json!({ "architecture": "riscv64", "type": "raw" }), "unknown architecture 'riscv64'"),
            (json!({ "architecture": "x86_64", "type": "img" }), "unknown image type 'img'"),
            (json!({ "architecture": "x86_64", "type": "iso" }), "nothing can run from an ISO image"),
            (json!({ "architecture": "x86_64", "type": "raw", "sort": 1 }), "unknown field `sort`"),
            (json!({ "architecture": "x86_64", "type": "raw", "seeds": { "x": {} } }), "there is no seed 'x'"),
            (
                json!({ "architecture": "x86_64", "type": "raw", "seeds": { "install": { "taget": {} } } }),
                "install.yaml: taget: is not a key that is known",
            ),
            (
                json!({ "architecture": "x86_64", "type": "raw", "seeds": { "applications": { "applications": [{ "name": "x" }] } } }),
                "unknown application 'x'",
            ),
            (
                json!({ "architecture": "x86_64", "type": "raw", "offline": true, "seeds": { "update": 5 } }),
                "update.yaml",
            ),
        ] {
            let error = order(body).map(|_| ()).unwrap_err();
            assert!(error.contains(reason), "{reason}: {error}");
        }
    }
}
