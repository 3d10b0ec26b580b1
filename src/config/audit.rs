//! `[audit]`: where signed checkpoints go.

use std::time::Duration;

use super::reader::Reader;
use super::{AuditConfig, Problem, WebhookConfig, urls};
use crate::config::PlainUrl;

/// Reads the table.
pub(super) fn read(reader: &mut Reader<'_>) -> AuditConfig {
    let default = AuditConfig::default();
    let file = reader.word("checkpoint_file", "\"/mnt/elsewhere/checkpoints\"");
    let context = reader.context;
    let bounds = Duration::from_secs(1)..=Duration::from_hours(7 * 24);
    let every = reader.duration("checkpoint_every", "\"1 hour\"", &bounds, "1 second to 168 hours");
    AuditConfig {
        checkpoint_file: file.map(|file| urls::absolute(context, file.value)),
        checkpoint_journal: reader
            .boolean("checkpoint_journal")
            .map_or(default.checkpoint_journal, |journal| journal.value),
        checkpoint_webhook: webhook(reader),
        checkpoint_every: every.unwrap_or(default.checkpoint_every),
    }
}

fn webhook(reader: &mut Reader<'_>) -> Option<WebhookConfig> {
    const EXAMPLE: &str = "{ url = \"https://witness.example/checkpoints\" }";
    let (_, table) = reader.table("checkpoint_webhook", EXAMPLE)?;
    let mut inner =
        Reader::new(reader.context, "`checkpoint_webhook` of `[audit]`", table).guarded();
    inner.expect(&[("url", "\"https://witness.example/checkpoints\"")]);
    let internal = inner.boolean("internal").is_some_and(|internal| internal.value);
    let url = inner.word("url", "\"https://witness.example/checkpoints\"");
    let authorization = urls::secret(&mut inner, "authorization");
    let url = url.and_then(|url| {
        let scheme = url.value.split_once("://").map(|(scheme, _)| scheme);
        let (message, help) = match scheme {
            Some("https") => ("", ""),
            Some("http") if internal => ("", ""),
            Some("http") => (
                "anyone on the way could read and change what is sent by `http:`",
                "write `https://…`, or `internal = true` for an address of your own network",
            ),
            _ => ("this is not a URL for HTTP", "write `https://host/path`"),
        };
        let message = if message.is_empty() && PlainUrl::new(url.value).is_err() {
            reader.context.hide(url.place);
            "a password does not belong into this file"
        } else {
            message
        };
        let help = if help.is_empty() {
            "name it with `authorization = { credential = … }`"
        } else {
            help
        };
        if message.is_empty() {
            return Some(url.value.to_owned());
        }
        reader.report(Problem::new(url.place, message).help(help));
        None
    });
    inner.finish();
    Some(WebhookConfig { url: url?, internal, authorization })
}
