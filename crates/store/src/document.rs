//! The file format: `{schema_version, written_at, sha256, payload}`, where the
//! checksum is over the canonical (sorted, compact) JSON of the payload.

use std::{collections::BTreeMap, fmt::Write as _, io};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

pub(crate) struct Document<T> {
    pub(crate) schema_version: u32,
    pub(crate) value: T,
    pub(crate) unknown: Map<String, Value>,
}

pub(crate) enum ReadError {
    Io(io::Error),
    Content(String),
}

#[derive(Serialize, Deserialize)]
struct File {
    schema_version: u32,
    written_at: String,
    sha256: String,
    payload: Map<String, Value>,
}

pub(crate) fn encode<T: Serialize>(
    value: &T,
    unknown: &Map<String, Value>,
    schema_version: u32,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut payload = object(value)?;
    for (key, value) in unknown {
        payload.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let sha256 = checksum(&payload)?;
    let written_at = jiff::Timestamp::now().to_string();
    let mut bytes = serde_json::to_vec_pretty(&File { schema_version, written_at, sha256, payload })?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(crate) fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Document<T>, ReadError> {
    let content = |error: serde_json::Error| ReadError::Content(error.to_string());
    let file: File = serde_json::from_slice(bytes).map_err(content)?;
    if checksum(&file.payload).map_err(content)? != file.sha256 {
        return Err(ReadError::Content("its checksum does not match".into()));
    }
    let value: T = serde_json::from_value(Value::Object(file.payload.clone())).map_err(content)?;
    let known = object(&value).map_err(content)?;
    let mut unknown = file.payload;
    unknown.retain(|key, value| !known.contains_key(key) && !value.is_null());
    Ok(Document { schema_version: file.schema_version, value, unknown })
}

fn object<T: Serialize>(value: &T) -> Result<Map<String, Value>, serde_json::Error> {
    match serde_json::to_value(value)? {
        Value::Object(object) => Ok(object),
        other => Err(serde::ser::Error::custom(format!("a state document is an object, not {other}"))),
    }
}

fn checksum(payload: &Map<String, Value>) -> Result<String, serde_json::Error> {
    let mut canonical = payload.clone();
    canonical.sort_keys();
    for value in canonical.values_mut() {
        value.sort_all_objects();
    }
    let sorted: BTreeMap<_, _> = canonical.iter().collect();
    let digest = Sha256::digest(serde_json::to_vec(&sorted)?);
    Ok(digest.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes whatever is written to it");
        hex
    }))
}
