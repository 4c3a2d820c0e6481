//! Every endpoint of the API, in one table, and how a request finds its own.

use std::{fmt, pin::Pin};

use http::Method;
use service::Identity::{self, Gateway, Network, Security, Storage, Supervisor, Update};

use crate::{
    answer::Answer,
    body::BodyMode::{self, Ignored, Optional, Raw, Required},
    dispatch::Call,
    endpoints::{console, debug, lists, power, report, server, system},
    failure::Failure,
};

/// What an endpoint does with a request.
pub(crate) type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;

/// The methods that the API uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Put,
    Post,
}

impl Verb {
    fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Put => Method::PUT,
            Self::Post => Method::POST,
        }
    }
}

/// One endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub(crate) verb: Verb,
    /// Segments of the path; `{name}` stands for any, `{service}` for the name of a service.
    pub(crate) path: &'static str,
    pub(crate) body: BodyMode,
    /// The service that answers or will answer.
    pub(crate) owner: Identity,
    /// Whether the answer holds secrets, which makes reading it an event for the audit log.
    pub(crate) secret: bool,
    /// `None` while it is not built: it answers 501.
    pub(crate) handler: Option<Handler>,
}

impl Route {
    /// Whether it changes the machine.
    pub(crate) fn mutates(&self) -> bool {
        self.verb != Verb::Get
    }

    /// Whether it is for programs of this machine only.
    pub(crate) fn is_internal(&self) -> bool {
        self.path.starts_with("/internal/")
    }

    const fn new(verb: Verb, path: &'static str, body: BodyMode, owner: Identity) -> Self {
        Self { verb, path, body, owner, secret: false, handler: None }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    const fn by(self, handler: Handler) -> Self {
        Self { handler: Some(handler), ..self }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.verb.method(), self.path)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Where a request leads.
#[derive(Debug)]
pub(crate) enum Destination {
    /// To an endpoint.
    Route(&'static Route),
    /// The path is known, but not with this method. The route shares the path.
    OtherMethod(&'static Route),
    /// The path names a service that does not exist.
    NoSuchService,
    /// No endpoint has this path.
    Nowhere,
}

/// Finds the endpoint of a request. `segments` are decoded.
pub(crate) fn find(method: &Method, segments: &[String]) -> Destination {
    let mut nearest = Destination::Nowhere;
    for route in ROUTES {
        match fit(route.path, segments) {
            Fit::Yes if route.verb.method() == *method => return Destination::Route(route),
            Fit::Yes => nearest = Destination::OtherMethod(route),
            Fit::UnknownService => nearest = Destination::NoSuchService,
            Fit::No => {}
        }
    }
    nearest
}

enum Fit {
    Yes,
    UnknownService,
    No,
}

fn fit(pattern: &str, segments: &[String]) -> Fit {
    let mut patterns = pattern.trim_start_matches('/').split('/');
    let mut unknown_service = false;
    for segment in segments {
        match patterns.next() {
            Some("{name}") if !segment.is_empty() => {}
            Some("{service}") if !segment.is_empty() => {
                unknown_service |= !SERVICES.contains(&segment.as_str());
            }
            Some(literal) if literal == segment => {}
            _ => return Fit::No,
        }
    }
    match patterns.next() {
        Some(_) => Fit::No,
        None if unknown_service => Fit::UnknownService,
        None => Fit::Yes,
    }
}

/// The optional services of the system, sorted.
const SERVICES: [&str; 10] =
    ["ceph", "iscsi", "linstor", "lvm", "multipath", "netbird", "nvme", "ovn", "tailscale", "usbip"];

macro_rules! handler {
    ($function:path) => {
        |call| Box::pin($function(call))
    };
}

const fn get(path: &'static str, owner: Identity) -> Route {
    Route::new(Verb::Get, path, Ignored, owner)
}

const fn put(path: &'static str, body: BodyMode, owner: Identity) -> Route {
    Route::new(Verb::Put, path, body, owner)
}

const fn post(path: &'static str, body: BodyMode, owner: Identity) -> Route {
    Route::new(Verb::Post, path, body, owner)
}

/// The API. What has no handler is not built yet.
pub(crate) static ROUTES: &[Route] = &[
    get("/", Gateway).by(handler!(lists::versions)),
    get("/1.0", Supervisor).by(handler!(server::get)),
    // Applications.
    get("/1.0/applications", Update).by(handler!(lists::applications)),
    post("/1.0/applications", Optional, Update),
    get("/1.0/applications/{name}", Update).secret(),
    put("/1.0/applications/{name}", Required, Update),
    post("/1.0/applications/{name}/:action", Required, Update),
    post("/1.0/applications/{name}/:backup", Optional, Update),
    post("/1.0/applications/{name}/:check-update", Ignored, Update),
    post("/1.0/applications/{name}/:debug", Required, Update),
    post("/1.0/applications/{name}/:factory-reset", Ignored, Update),
    post("/1.0/applications/{name}/:remove", Ignored, Update),
    post("/1.0/applications/{name}/:restart", Ignored, Update),
    post("/1.0/applications/{name}/:restore", Raw, Update),
    post("/1.0/applications/{name}/:switch-version", Optional, Update),
    // Debug.
    get("/1.0/debug", Gateway).by(handler!(lists::debug)),
    get("/1.0/debug/kernel", Gateway).by(handler!(debug::kernel)),
    get("/1.0/debug/log", Gateway).by(handler!(debug::log)),
    get("/1.0/debug/processes", Gateway).by(handler!(debug::processes)),
    get("/1.0/debug/report", Gateway).by(handler!(report::get)),
    post("/1.0/debug/:run-script", Raw, Security),
    get("/1.0/debug/secureboot", Gateway).by(handler!(lists::secureboot)),
    get("/1.0/debug/secureboot/event-log", Security).by(handler!(debug::event_log)),
    post("/1.0/debug/secureboot/:update", Raw, Security),
    // Optional services.
    get("/1.0/services", Gateway).by(handler!(lists::services)),
    get("/1.0/services/{service}", Gateway).secret(),
    put("/1.0/services/{service}", Required, Gateway),
    post("/1.0/services/{service}/:reset", Ignored, Gateway),
    // The system as a whole.
    get("/1.0/system", Gateway).by(handler!(lists::system)),
    post("/1.0/system/:backup", Ignored, Supervisor),
    post("/1.0/system/:factory-reset", Optional, Supervisor),
    post("/1.0/system/:poweroff", Ignored, Supervisor).by(handler!(power::poweroff)),
    post("/1.0/system/:reboot", Ignored, Supervisor).by(handler!(power::reboot)),
    post("/1.0/system/:restore", Raw, Supervisor),
    post("/1.0/system/:suspend", Ignored, Supervisor).by(handler!(power::suspend)),
    // Its sections.
    get("/1.0/system/fallback-listener", Supervisor).by(handler!(system::fallback_listener)),
    put("/1.0/system/fallback-listener", Optional, Supervisor).by(handler!(system::put_fallback_listener)),
    get("/1.0/system/kernel", Supervisor).by(handler!(system::kernel)),
    put("/1.0/system/kernel", Required, Supervisor),
    get("/1.0/system/logging", Supervisor).by(handler!(system::logging)),
    put("/1.0/system/logging", Required, Supervisor),
    get("/1.0/system/network", Network).secret().by(handler!(system::network)),
    put("/1.0/system/network", Required, Network),
    post("/1.0/system/network/:confirm", Ignored, Network),
    post("/1.0/system/network/:flush-dns", Ignored, Network).by(handler!(system::flush_dns)),
    get("/1.0/system/provider", Update).secret().by(handler!(system::provider)),
    put("/1.0/system/provider", Required, Update),
    get("/1.0/system/resources", Supervisor).by(handler!(system::resources)),
    get("/1.0/system/security", Security).secret().by(handler!(system::security)),
    put("/1.0/system/security", Optional, Security).by(handler!(system::put_security)),
    post("/1.0/system/security/:retrieved", Ignored, Security).by(handler!(system::recovery_keys_retrieved)),
    post("/1.0/system/security/:tpm-rebind", Ignored, Security).by(handler!(system::rebind_tpm)),
    get("/1.0/system/storage", Storage).by(handler!(system::storage)),
    put("/1.0/system/storage", Optional, Storage),
    post("/1.0/system/storage/:cleanup-root", Ignored, Storage),
    post("/1.0/system/storage/:create-volume", Optional, Storage),
    post("/1.0/system/storage/:delete-pool", Optional, Storage),
    post("/1.0/system/storage/:delete-volume", Optional, Storage),
    post("/1.0/system/storage/:encrypt-drive", Optional, Storage),
    post("/1.0/system/storage/:import-encrypted-drive", Optional, Storage),
    post("/1.0/system/storage/:import-pool", Optional, Storage),
    post("/1.0/system/storage/:rescan-scsi", Ignored, Storage),
    post("/1.0/system/storage/:scrub-pool", Optional, Storage),
    post("/1.0/system/storage/:trim-pool", Optional, Storage),
    post("/1.0/system/storage/:wipe-drive", Optional, Storage),
    get("/1.0/system/update", Update).by(handler!(system::update)),
    put("/1.0/system/update", Required, Update).by(handler!(system::put_update)),
    post("/1.0/system/update/:check", Optional, Update),
    // For programs of this machine only.
    post("/internal/auth/:generate-registration", Required, Security),
    post("/internal/auth/:generate-token", Ignored, Security),
    get("/internal/secureboot", Security).by(handler!(system::builtin_certificates)),
    post("/internal/tui/:write-message", Required, Supervisor).by(handler!(console::write_message)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn find_path(method: &Method, path: &str) -> Destination {
        let segments: Vec<_> = path[1..].split('/').map(str::to_owned).collect();
        find(method, &segments)
    }

    /// The path of a route with every open name filled in.
    fn example(route: &Route) -> String {
        route.path.replace("{name}", "x").replace("{service}", "ovn")
    }

    #[test]
    fn the_table_holds_every_operation_once() {
        // 69 operations of the API, and three newer ones: report, rescan-scsi, trim-pool.
        assert_eq!(ROUTES.len(), 72);
        for (index, route) in ROUTES.iter().enumerate() {
            for other in &ROUTES[..index] {
                assert!(route.path != other.path || route.verb != other.verb, "{route} is there twice");
            }
        }
    }

    #[test]
    fn every_route_is_found_by_its_path() {
        for route in ROUTES {
            let found = find_path(&route.verb.method(), &example(route));
            assert!(matches!(found, Destination::Route(found) if std::ptr::eq(found, route)), "{route}: {found:?}");
        }
    }

    #[test]
    fn every_other_method_is_known_as_such() {
        let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"];
        for route in ROUTES {
            let path = example(route);
            for method in methods.map(|name| Method::from_bytes(name.as_bytes()).unwrap()) {
                let exists = ROUTES.iter().any(|other| other.path == route.path && other.verb.method() == method);
                let found = find_path(&method, &path);
                assert_eq!(matches!(found, Destination::Route(..)), exists, "{method} {path}");
                assert_eq!(matches!(found, Destination::OtherMethod(_)), !exists, "{method} {path}");
            }
        }
    }

    #[test]
    fn near_misses_lead_nowhere() {
        for path in [
            "/1.0/",
            "//1.0",
            "/1.0/system/",
            "/1.0/system/Kernel",
            "/1.0/system/kernel/x",
            "/1.0/applications/",
            "/1.0/applications//:remove",
            "/1.0/system/reboot",
            "/1.0/debug/packages",
            "/1.0/debug/tui",
            "/2.0",
            "/internal",
            "/os/1.0",
            "/{name}",
        ] {
            assert!(matches!(find_path(&Method::GET, path), Destination::Nowhere), "{path}");
        }
    }

    #[test]
    fn an_unknown_service_does_not_exist_whatever_the_method() {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            assert!(matches!(find_path(&method, "/1.0/services/nfs"), Destination::NoSuchService));
        }
        assert!(matches!(find_path(&Method::POST, "/1.0/services/nfs/:reset"), Destination::NoSuchService));
        assert!(matches!(find_path(&Method::GET, "/1.0/services/"), Destination::Nowhere));
    }
}
