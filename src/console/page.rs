//! The frame of every page, and pages that only say something.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::viewer::{Rights, Viewer};

pub(super) const STYLE: &str = include_str!("assets/style.css");
pub(super) const SCRIPT: &str = include_str!("assets/script.js");

/// The targets of the navigation.
const NAVIGATION: [(&str, &str); 4] = [
    ("/", "Overview"),
    ("/dead", "Dead letters"),
    ("/guard", "Guard and pauses"),
    ("/actions", "Actions"),
];

/// A page.
pub(super) fn page(viewer: &Viewer, here: &str, title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Deletions" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/style.css";
                script src="/script.js" defer {}
            }
            body {
                a.skip href="#main" { "To the content" }
                header {
                    p.brand { "Deletions" }
                    nav aria-label="Pages" {
                        ul {
                            @for (path, name) in NAVIGATION {
                                li { a href=(path) aria-current=[(path == here).then_some("page")] { (name) } }
                            }
                        }
                    }
                    p.who {
                        bdi { (viewer.by) }
                        @if viewer.rights == Rights::Look { " " span.tag { "read-only" } }
                    }
                }
                main #main tabindex="-1" {
                    h1 { (title) }
                    (body)
                }
            }
        }
    }
}

/// A page that says why something was not done.
pub(super) fn refusal(viewer: &Viewer, status: StatusCode, why: &str) -> Response {
    let title = if status == StatusCode::NOT_FOUND { "Not found" } else { "Not done" };
    let body = html! {
        p.notice.bad role="alert" { (why) }
        p { a href="/" { "To the overview" } }
    };
    (status, page(viewer, "", title, &body)).into_response()
}

/// The same for a form that was filled in wrongly.
pub(super) fn wrong(viewer: &Viewer, why: &str) -> Response {
    refusal(viewer, StatusCode::UNPROCESSABLE_ENTITY, why)
}
