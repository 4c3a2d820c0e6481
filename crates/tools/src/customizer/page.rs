//! The web page: a few files that are part of the program.

use axum::{
    extract::Path,
    response::{IntoResponse as _, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::answer::refusal;

const FILES: [(&str, &str, &str); 6] = [
    ("index.html", "text/html; charset=utf-8", include_str!("../../page/index.html")),
    ("style.css", "text/css; charset=utf-8", include_str!("../../page/style.css")),
    ("app.js", "text/javascript; charset=utf-8", include_str!("../../page/app.js")),
    ("seeds.js", "text/javascript; charset=utf-8", include_str!("../../page/seeds.js")),
    ("certificate.js", "text/javascript; charset=utf-8", include_str!("../../page/certificate.js")),
    ("icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
];

/// Nothing but what this server sends, and nothing written inline. The page makes private keys, so
/// no other origin has any business in it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) async fn index() -> Response {
    serve("index.html")
}

pub(crate) async fn file(Path(name): Path<String>) -> Response {
    serve(&name)
}

fn serve(name: &str) -> Response {
    let Some((_, kind, text)) = FILES.iter().find(|(file, ..)| *file == name) else {
        return refusal(StatusCode::NOT_FOUND, "not found");
    };
    let headers: [(HeaderName, HeaderValue); 6] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
        // The next version of the program brings other files under the same names.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, *text).into_response()
}
