//! Where the client sees the API: the prefix that a reverse proxy took off.

/// Prefix of every URL that an answer contains, `/1.0` or `/os/1.0` for example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root(String);

impl Root {
    /// The root behind a proxy that announced `prefix`; empty is no proxy.
    pub(crate) fn behind(prefix: &str) -> Self {
        Self(join(&[prefix, "1.0"]))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The URL of a resource: `system` and `kernel` make `/1.0/system/kernel`.
    pub(crate) fn url(&self, group: &str, name: &str) -> String {
        join(&[&self.0, group, name])
    }
}

/// Joins parts of a path with single slashes and without dot segments.
fn join(parts: &[&str]) -> String {
    let mut clean: Vec<&str> = Vec::new();
    for segment in parts.iter().flat_map(|part| part.split('/')) {
        match segment {
            "" | "." => {}
            ".." => {
                clean.pop();
            }
            segment => clean.push(segment),
        }
    }
    format!("/{}", clean.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_joined_as_paths() {
        let table = [
            ("", "/1.0"),
            ("/", "/1.0"),
            ("/os", "/os/1.0"),
            ("/os/", "/os/1.0"),
            ("//os//", "/os/1.0"),
            ("/a/./b/../os", "/a/os/1.0"),
            ("/../..", "/1.0"),
            ("/1.0/provisioning/servers/x", "/1.0/provisioning/servers/x/1.0"),
        ];
        for (prefix, root) in table {
            assert_eq!(Root::behind(prefix).as_str(), root, "{prefix}");
        }
    }

    #[test]
    fn resources_are_below_the_root() {
        assert_eq!(Root::behind("/os").url("applications", "incus"), "/os/1.0/applications/incus");
        assert_eq!(Root::behind("").url("debug", ":run-script"), "/1.0/debug/:run-script");
    }
}
