//! Reading a section with the leniency that seeds always had, and a little more:
//!
//! * a key that the section does not know is passed over, and reported;
//! * JSON keys match in any letter case, and the last of several equal ones counts;
//! * YAML reads `yes`, `no`, `on` and `off` where a boolean is wanted, any
//!   scalar where a text is wanted, anchors and merge keys;
//! * a document of `null` is the section's default, no document is an error;
//! * what follows the first value or document is not looked at.
//!
//! All of it works on any type with a plain derived `Deserialize`, because the
//! names of the keys that a struct knows are part of serde's protocol.

use std::{cell::RefCell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, EnumAccess, IgnoredAny, IntoDeserializer as _, MapAccess, SeqAccess, Visitor,
    },
};

/// How a section is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Json,
    Yaml,
}

/// Most unknown keys that are reported of one section.
const UNKNOWN_LIMIT: usize = 20;

#[derive(Debug)]
pub(crate) enum Error {
    /// There is no document.
    Empty,
    /// The document is not what was asked for.
    Content {
        /// The key at which it is wrong, with those above it; empty for the document itself.
        key: String,
        /// Never quotes the document: it may hold secrets.
        reason: String,
    },
}

impl Error {
    fn document(reason: impl Into<String>) -> Self {
        Self::Content { key: String::new(), reason: reason.into() }
    }
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Decoded<T> {
    pub(crate) value: T,
    /// The keys that the section does not know, with those above them.
    pub(crate) unknown: Vec<String>,
}

pub(crate) fn decode<T: DeserializeOwned + Default>(bytes: &[u8], syntax: Syntax) -> Result<Decoded<T>, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::document("is not UTF-8"))?;
    match syntax {
        Syntax::Json => json(text),
        Syntax::Yaml => yaml(text),
    }
}

fn json<T: DeserializeOwned + Default>(text: &str) -> Result<Decoded<T>, Error> {
    // By way of a tree, where the last of several equal keys has won.
    let tree = serde_json::Deserializer::from_str(text)
        .into_iter::<serde_json::Value>()
        .next()
        .ok_or(Error::Empty)?
        .map_err(|error| Error::document(without_quotes(&error.to_string())))?;
    let track = Track::new(Dialect::Json);
    track.read(tree)
}

fn yaml<T: DeserializeOwned + Default>(text: &str) -> Result<Decoded<T>, Error> {
    let nothing = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(nothing) {
        return Err(Error::Empty);
    }
    let document = || serde_yaml::Deserializer::from_str(text).next().ok_or(Error::Empty);
    if !text.contains("<<") {
        return Track::new(Dialect::Yaml).read(document()?);
    }
    // Merge keys are resolved on a tree. It is the second choice: it has
    // forgotten how a number was written, which matters where a text is wanted.
    let refuse = |error: serde_yaml::Error| Error::document(without_quotes(&error.to_string()));
    let mut tree = serde_yaml::Value::deserialize(document()?).map_err(refuse)?;
    tree.apply_merge().map_err(refuse)?;
    Track::new(Dialect::YamlTree).read(tree)
}

/// What serde says of a text that does not fit repeats the text, which may be a
/// password.
fn without_quotes(message: &str) -> String {
    match (message.find("string \""), message.rfind("\", expected")) {
        (Some(start), Some(end)) if start + 6 < end => format!("{}{}", &message[..start + 6], &message[end + 1..]),
        _ => message.to_owned(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Json,
    Yaml,
    YamlTree,
}

/// Where in the document the reader is.
struct Track {
    dialect: Dialect,
    path: RefCell<Vec<String>>,
    unknown: RefCell<Vec<String>>,
}

impl Track {
    fn new(dialect: Dialect) -> Self {
        Self { dialect, path: RefCell::default(), unknown: RefCell::default() }
    }

    fn read<'de, T, D>(self, document: D) -> Result<Decoded<T>, Error>
    where
        T: Deserialize<'de> + Default,
        D: Deserializer<'de>,
    {
        match Option::<T>::deserialize(Lenient { inner: document, track: &self }) {
            Ok(value) => Ok(Decoded { value: value.unwrap_or_default(), unknown: self.unknown.into_inner() }),
            Err(error) => {
                let key = self.path.borrow().join(".");
                let reason = without_quotes(&error.to_string());
                // YAML says where by itself, in its own notation, but not always.
                let reason = reason.strip_prefix(&format!("{key}: ")).unwrap_or(&reason).to_owned();
                Err(Error::Content { key, reason })
            }
        }
    }

    /// Keeps note of a key that is passed over. Every section may have a
    /// version, whether it looks at it or not.
    fn pass_over(&self, key: &str) {
        let path = self.path.borrow();
        if path.is_empty() && key == "version" {
            return;
        }
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() < UNKNOWN_LIMIT {
            unknown.push(path.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join("."));
        }
    }

    /// Runs `read` one level further down. The path stays after a failure, so
    /// that it can be told.
    fn enter<T, E>(&self, step: String, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.path.borrow_mut().push(step);
        let value = read()?;
        self.path.borrow_mut().pop();
        Ok(value)
    }
}

/// A deserializer, seed or visitor under the rules of this module.
struct Lenient<'t, I> {
    inner: I,
    track: &'t Track,
}

impl<'t, I> Lenient<'t, I> {
    fn context(&self, fields: Option<&'static [&'static str]>) -> Context<'t> {
        Context { track: self.track, fields }
    }
}

#[derive(Clone, Copy)]
struct Context<'t> {
    track: &'t Track,
    /// The keys of the struct that is being read; none for a map.
    fields: Option<&'static [&'static str]>,
}

macro_rules! forward {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            let context = self.context(None);
            self.inner.$method(Reader { inner: visitor, context })
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Lenient<'_, D> {
    type Error = D::Error;

    forward! {
        deserialize_any deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_bytes deserialize_byte_buf deserialize_option deserialize_unit deserialize_seq
        deserialize_map deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        match self.track.dialect {
            Dialect::Json => self.inner.deserialize_bool(visitor),
            Dialect::Yaml | Dialect::YamlTree => self.inner.deserialize_any(Boolean(visitor)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        match self.track.dialect {
            Dialect::YamlTree => self.inner.deserialize_any(Text(visitor)),
            Dialect::Json | Dialect::Yaml => self.inner.deserialize_str(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let context = self.context(Some(fields));
        self.inner.deserialize_struct(name, fields, Reader { inner: visitor, context })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        let context = self.context(None);
        self.inner.deserialize_newtype_struct(name, Reader { inner: visitor, context })
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, D::Error> {
        let context = self.context(None);
        self.inner.deserialize_tuple(length, Reader { inner: visitor, context })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let context = self.context(None);
        self.inner.deserialize_tuple_struct(name, length, Reader { inner: visitor, context })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let context = self.context(None);
        self.inner.deserialize_enum(name, variants, Reader { inner: visitor, context })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Lenient<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Lenient { inner: deserializer, track: self.track })
    }
}

/// Hands what was found on to the type's own visitor.
struct Reader<'t, V> {
    inner: V,
    context: Context<'t>,
}

macro_rules! visit {
    ($($method:ident: $type:ty;)*) => {
        $(fn $method<E: serde::de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Reader<'_, V> {
    type Value = V::Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(out)
    }

    visit! {
        visit_bool: bool; visit_i8: i8; visit_i16: i16; visit_i32: i32; visit_i64: i64; visit_i128: i128;
        visit_u8: u8; visit_u16: u16; visit_u32: u32; visit_u64: u64; visit_u128: u128; visit_f32: f32; visit_f64: f64;
        visit_char: char; visit_str: &str; visit_borrowed_str: &'de str; visit_string: String; visit_bytes: &[u8];
        visit_borrowed_bytes: &'de [u8]; visit_byte_buf: Vec<u8>;
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Lenient { inner: deserializer, track: self.context.track })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Lenient { inner: deserializer, track: self.context.track })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Elements { inner: elements, track: self.context.track, index: 0 })
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Entries { inner: entries, context: self.context, key: String::new() })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(variant)
    }
}

struct Elements<'t, A> {
    inner: A,
    track: &'t Track,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let step = self.index.to_string();
        self.index += 1;
        self.track.enter(step, || self.inner.next_element_seed(Lenient { inner: seed, track: self.track }))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

struct Entries<'t, A> {
    inner: A,
    context: Context<'t>,
    key: String,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        while let Some(written) = self.inner.next_key::<String>()? {
            let key = match self.context.fields {
                None => written,
                Some(fields) => match known(&written, fields, self.context.track.dialect) {
                    Some(field) => field.to_owned(),
                    None => {
                        self.context.track.pass_over(&written);
                        self.inner.next_value::<IgnoredAny>()?;
                        continue;
                    }
                },
            };
            self.key.clone_from(&key);
            return seed.deserialize(key.into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let track = self.context.track;
        let step = std::mem::take(&mut self.key);
        track.enter(step, || self.inner.next_value_seed(Lenient { inner: seed, track }))
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

fn known<'f>(written: &str, fields: &[&'f str], dialect: Dialect) -> Option<&'f str> {
    let exact = fields.iter().find(|field| **field == written);
    let folded = || fields.iter().find(|field| dialect == Dialect::Json && field.eq_ignore_ascii_case(written));
    exact.or_else(folded).copied()
}

/// A boolean of YAML 1.1.
struct Boolean<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Boolean<V> {
    type Value = V::Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(out)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<V::Value, E> {
        self.0.visit_bool(value)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<V::Value, E> {
        match text {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => self.0.visit_bool(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => self.0.visit_bool(false),
            _ => self.0.visit_str(text),
        }
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }
}

/// A text, also when it was written without quotes and looks like something else.
struct Text<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Text<V> {
    type Value = V::Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(out)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<V::Value, E> {
        self.0.visit_str(text)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<V::Value, E> {
        self.0.visit_string(value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<V::Value, E> {
        self.0.visit_string(value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<V::Value, E> {
        self.0.visit_string(value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<V::Value, E> {
        self.0.visit_string(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Section {
        version: String,
        enabled: Option<bool>,
        inner: Option<Inner>,
        list: Vec<Inner>,
        map: BTreeMap<String, Inner>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        #[serde(rename = "hwaddr")]
        address: Option<String>,
        number: u64,
        up: bool,
    }

    fn read(text: &str, syntax: Syntax) -> Result<Decoded<Section>, String> {
        decode(text.as_bytes(), syntax).map_err(|error| match error {
            Error::Empty => "empty".into(),
            Error::Content { key, reason } if key.is_empty() => reason,
            Error::Content { key, reason } => format!("{key}: {reason}"),
        })
    }

    fn json(text: &str) -> Result<Section, String> {
        read(text, Syntax::Json).map(|read| read.value)
    }

    fn yaml(text: &str) -> Result<Section, String> {
        read(text, Syntax::Yaml).map(|read| read.value)
    }

    #[test]
    fn json_keys_match_in_any_case_but_map_keys_stay() {
        let section =
            json(r#"{"VERSION":"1","Inner":{"HwAddr":"a","NUMBER":5},"map":{"Enp5s0":{"Up":true}}}"#).unwrap();
        assert_eq!(section.version, "1");
        assert_eq!(section.inner.unwrap(), Inner { address: Some("a".into()), number: 5, up: false });
        assert!(section.map["Enp5s0"].up);
        assert_eq!(yaml("Version: 1").unwrap().version, "");
    }

    #[test]
    fn unknown_keys_are_passed_over_and_reported_at_any_depth() {
        let unknown = |text, syntax| read(text, syntax).unwrap().unknown;
        assert_eq!(unknown(r#"{"config":{"a":[1,{}]},"version":"1"}"#, Syntax::Json), ["config"]);
        assert_eq!(unknown(r#"{"list":[{},{"x":1,"number":2}]}"#, Syntax::Json), ["list.1.x"]);
        assert_eq!(unknown("inner: {up: true, x: 1, y: [2]}", Syntax::Yaml), ["inner.x", "inner.y"]);
        assert_eq!(unknown("map: {a: {x: 1}}\nVersion: 1", Syntax::Yaml), ["map.a.x", "Version"]);
        assert_eq!(json(r#"{"list":[{"x":1,"number":2}]}"#).unwrap().list[0].number, 2);
        let many: String = (0..100).map(|index| format!("x{index}: 1\n")).collect();
        assert_eq!(unknown(&many, Syntax::Yaml).len(), UNKNOWN_LIMIT);
    }

    #[test]
    fn a_version_is_no_unknown_key_of_a_section_without_one() {
        let decoded = decode::<Inner>(b"version: 1\nup: on\n", Syntax::Yaml).unwrap();
        assert!(decoded.unknown.is_empty() && decoded.value.up);
    }

    #[test]
    fn json_takes_the_last_of_equal_keys_and_yaml_refuses_them() {
        assert_eq!(json(r#"{"version":"1","version":"2"}"#).unwrap().version, "2");
        assert!(yaml("version: 1\nversion: 2").is_err());
    }

    #[test]
    fn scalars_of_yaml_fit_texts_as_they_were_written() {
        for (written, text) in [("1", "1"), ("1.10", "1.10"), ("true", "true"), ("0x10", "0x10"), ("\"q\"", "q")] {
            assert_eq!(yaml(&format!("version: {written}")).unwrap().version, text);
        }
        let long = "123456789012345678901234567890";
        assert_eq!(yaml(&format!("version: {long}")).unwrap().version, long);
        assert!(json(r#"{"version":1}"#).is_err());
    }

    #[test]
    fn booleans_of_yaml_1_1_are_read_where_a_boolean_is_wanted() {
        for (written, value) in [("yes", true), ("on", true), ("Off", false), ("NO", false), ("true", true)] {
            assert_eq!(yaml(&format!("enabled: {written}")).unwrap().enabled, Some(value), "{written}");
        }
        assert_eq!(yaml("version: yes").unwrap().version, "yes");
        assert!(yaml("enabled: maybe").is_err());
        assert!(json(r#"{"enabled":"yes"}"#).is_err());
    }

    #[test]
    fn null_and_empty_objects_are_the_default() {
        for text in ["null", "{}", r#"{"enabled":null,"inner":null}"#] {
            assert_eq!(json(text).unwrap(), Section::default(), "{text}");
            assert_eq!(yaml(text).unwrap(), Section::default(), "{text}");
        }
        assert_eq!(yaml("---\n").unwrap(), Section::default());
    }

    #[test]
    fn only_the_first_document_is_read() {
        assert_eq!(json(r#"{"version":"1"} trailing"#).unwrap().version, "1");
        assert_eq!(yaml("version: 1\n---\nnonsense: [").unwrap().version, "1");
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let section =
            yaml("inner: &base {hwaddr: a, number: 1}\nlist:\n- <<: *base\n  number: 2\n  up: on\nversion: 7\n");
        let section = section.unwrap();
        assert_eq!(section.list, [Inner { address: Some("a".into()), number: 2, up: true }]);
        assert_eq!(section.version, "7");
        assert_eq!(yaml("inner: &a {number: 3}\nlist: [*a, *a]").unwrap().list.len(), 2);
    }

    #[test]
    fn errors_never_repeat_a_text() {
        for error in [
            json(r#"{"inner":{"number":"hunter2"}}"#).unwrap_err(),
            yaml("inner: {number: hunter2}").unwrap_err(),
            json(r#"{"enabled":"hunter2"}"#).unwrap_err(),
        ] {
            assert!(!error.contains("hunter2") && error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let deep = "[".repeat(100_000);
        assert!(json(&deep).is_err() && yaml(&deep).is_err());
        let mut laughs = String::from("list: &a [{}, {}]\n");
        laughs.push_str("map: {a: {number: &b [*a, *a]}}\n");
        assert!(yaml(&laughs).is_err());
        assert!(decode::<Section>(&[0xff, 0xfe], Syntax::Yaml).is_err());
    }
}
