//! Compiles `proto/` in process (protox, no `protoc`) and attaches the JSON
//! rules of the REST API to the generated messages.
//!
//! The rules are read from the schema itself, so a field's wire behaviour is
//! stated once, beside the field:
//!
//! * every key is optional on input, and `null` is the zero value;
//! * `[(omit_empty) = true]` leaves the key out when it holds the zero value;
//! * a message field without that option is always an object, `{}` when unset;
//! * `json_name` overrides the key, which is otherwise the field's own name.

use std::{env, error::Error, fs, path::Path};

use protox::prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor, Value};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<_> =
        fs::read_dir("proto/incusos/v1")?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files)?;
    let pool = compiler.descriptor_pool();
    let omit_empty = pool
        .get_extension_by_name("incusos.v1.omit_empty")
        .ok_or("options.proto does not define incusos.v1.omit_empty")?;

    let mut config = prost_build::Config::new();
    config.btree_map(["."]);
    for message in pool.all_messages().filter(ours) {
        let name = message.full_name();
        config.type_attribute(name, "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]");
        for field in message.fields() {
            let omit = field.options().get_extension(&omit_empty).as_ref() == &Value::Bool(true);
            let path = format!("{name}.{}", field.name());
            config.field_attribute(path, serde_attribute(&field, omit));
        }
    }

    let set_path = Path::new(&env::var("OUT_DIR")?).join("schema.binpb");
    fs::write(set_path, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}

fn ours(message: &MessageDescriptor) -> bool {
    message.package_name() == "incusos.v1" && !message.is_map_entry()
}

fn serde_attribute(field: &FieldDescriptor, omit_empty: bool) -> String {
    let mut rules = Vec::new();
    if let Some(name) = explicit_json_name(field) {
        rules.push(format!("rename = {name:?}"));
    }
    rules.push(format!("deserialize_with = \"crate::json::{}\"", reader(field)));
    if omit_empty {
        rules.push("skip_serializing_if = \"crate::json::is_zero\"".into());
    } else if is_singular(field) && matches!(field.kind(), Kind::Message(_)) {
        rules.push("serialize_with = \"crate::json::always_an_object\"".into());
    }
    format!("#[serde({})]", rules.join(", "))
}

/// The key, when the schema sets one that is not the derived camel-case name.
fn explicit_json_name(field: &FieldDescriptor) -> Option<&str> {
    let mut camel = String::new();
    let mut upper = false;
    for c in field.name().chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                camel.extend(c.to_uppercase());
                upper = false;
            }
            c => camel.push(c),
        }
    }
    (field.json_name() != camel).then(|| field.json_name())
}

/// Integers accept `5.0`; everything accepts `null`.
fn reader(field: &FieldDescriptor) -> &'static str {
    let is_integer = matches!(field.kind(), Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64);
    if is_integer && is_singular(field) { "integer" } else { "null_is_zero" }
}

fn is_singular(field: &FieldDescriptor) -> bool {
    field.cardinality() != Cardinality::Repeated
}
