//! What a request asks for, apart from its body.

use std::collections::HashMap;

use http::{HeaderMap, request::Parts};
use percent_encoding::percent_decode_str;

use crate::{caller::Caller, root::Root};

/// Set by proxies to the prefix that they took off the path.
const PROXY_HEADER: &str = "X-IncusOS-Proxy";

/// What an HTTPS client has in front of the path, and sees in front of URLs.
const REMOTE_PREFIX: &str = "os";

/// The head of a request as the endpoints see it.
#[derive(Debug)]
pub(crate) struct Head {
    /// Decoded segments of the path; the path `/` has one, empty.
    pub(crate) segments: Vec<String>,
    pub(crate) query: Query,
    pub(crate) root: Root,
    /// Whether the request shows any sign of having come through a proxy.
    pub(crate) proxied: bool,
}

impl Head {
    pub(crate) fn new(parts: &Parts, caller: &Caller) -> Self {
        let mut segments = segments(parts.uri.path());
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let (root, proxied) = match caller {
            Caller::Local { .. } => (Root::behind(first_prefix(&parts.headers)), came_through_proxy(&parts.headers)),
            Caller::Remote { .. } => {
                if segments.first().is_some_and(|first| first == REMOTE_PREFIX) {
                    segments.remove(0);
                }
                if segments.is_empty() {
                    segments.push(String::new());
                }
                // Whatever the client says of itself: this listener is the proxy.
                (Root::behind(REMOTE_PREFIX), true)
            }
        };
        Self { segments, query, root, proxied }
    }
}

/// Splits first, then decodes, so that an encoded slash stays inside its segment.
fn segments(path: &str) -> Vec<String> {
    let raw = path.strip_prefix('/').unwrap_or(path);
    // What is not UTF-8 after decoding is the name of nothing here.
    raw.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned()).collect()
}

fn first_prefix(headers: &HeaderMap) -> &str {
    headers.get(PROXY_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// One proxy header is not enough to go by: a client can make a reverse proxy
/// drop it as a hop-by-hop header, but not the ones that the proxy adds later.
fn came_through_proxy(headers: &HeaderMap) -> bool {
    [PROXY_HEADER, "X-Forwarded-For", "Forwarded"].iter().any(|name| headers.contains_key(*name))
}

/// The parameters after the `?`.
#[derive(Debug, Default)]
pub(crate) struct Query(HashMap<String, Vec<String>>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let mut parameters: HashMap<String, Vec<String>> = HashMap::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            parameters.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        Self(parameters)
    }

    /// The first value of a parameter; an empty one counts as not given.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    /// Every value of a repeatable parameter.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Whether a switch is on: `?follow`, `?follow=1` or `?follow=true`.
    pub(crate) fn switch(&self, name: &str) -> bool {
        self.all(name).next().is_some_and(|value| matches!(value, "" | "1" | "true"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(path: &str, headers: &[(&str, &str)]) -> Head {
        head(path, headers, &Caller::Local { uid: 0 })
    }

    fn remote(path: &str, headers: &[(&str, &str)]) -> Head {
        let address = "192.0.2.1:5".parse().unwrap();
        head(path, headers, &Caller::Remote { address, certificate: None })
    }

    fn head(path: &str, headers: &[(&str, &str)], caller: &Caller) -> Head {
        let mut request = http::Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Head::new(&request.body(()).unwrap().into_parts().0, caller)
    }

    #[test]
    fn the_first_proxy_header_names_the_root_and_any_sign_of_a_proxy_counts() {
        const P: &str = "X-IncusOS-Proxy";
        for (headers, root, proxied) in [
            (&[][..], "/1.0", false),
            (&[(P, "/os")], "/os/1.0", true),
            (&[("x-incusos-proxy", "/os")], "/os/1.0", true),
            (&[(P, "/")], "/1.0", true),
            (&[(P, "/"), (P, "/os")], "/1.0", true),
            (&[(P, "/1.0/provisioning/servers/x"), (P, "/os")], "/1.0/provisioning/servers/x/1.0", true),
            (&[(P, "")], "/1.0", true),
            (&[("X-Forwarded-For", "192.0.2.1")], "/1.0", true),
            (&[("Forwarded", "for=192.0.2.1")], "/1.0", true),
        ] {
            let head = local("/", headers);
            assert_eq!((head.root.as_str(), head.proxied), (root, proxied), "{headers:?}");
        }
    }

    #[test]
    fn over_https_the_prefix_is_taken_off_once_and_put_before_urls() {
        for (path, segments) in [
            ("/os/1.0/system", vec!["1.0", "system"]),
            ("/1.0/system", vec!["1.0", "system"]),
            ("/os/os/1.0", vec!["os", "1.0"]),
            ("/os", vec![""]),
            ("/os/", vec![""]),
            ("/", vec![""]),
            ("/osx/1.0", vec!["osx", "1.0"]),
        ] {
            let head = remote(path, &[("X-IncusOS-Proxy", "/")]);
            assert_eq!(head.segments, segments, "{path}");
            assert_eq!((head.root.as_str(), head.proxied), ("/os/1.0", true), "{path}");
        }
        assert_eq!(local("/os/1.0", &[]).segments, ["os", "1.0"]);
    }

    #[test]
    fn paths_are_split_before_they_are_decoded() {
        for (path, segments) in [
            ("/1.0/system/%3Areboot", vec!["1.0", "system", ":reboot"]),
            ("/1.0/system/:reboot", vec!["1.0", "system", ":reboot"]),
            ("/1.0%2Fsystem", vec!["1.0/system"]),
            ("/1.0/applications/", vec!["1.0", "applications", ""]),
            ("//1.0", vec!["", "1.0"]),
            ("/a%zzb", vec!["a%zzb"]),
            ("/%ff", vec!["\u{fffd}"]),
        ] {
            assert_eq!(local(path, &[]).segments, segments, "{path}");
        }
    }

    #[test]
    fn query_values_are_decoded_and_the_first_counts() {
        let query = Query::parse("since=1%20hour+ago&unit=a&unit=b&boot=&follow&target=m1");
        assert_eq!(query.first("since"), Some("1 hour ago"));
        assert_eq!(query.first("unit"), Some("a"));
        assert_eq!(query.all("unit").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(query.first("boot"), None);
        assert!(query.switch("follow") && !query.switch("unit") && !query.switch("absent"));
    }
}
