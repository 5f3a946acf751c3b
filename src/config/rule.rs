//! `[[rule]]`: who may log in from where, and how.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::error::Wrong;
use super::keys::Kind;
use super::section::Section;
use super::suggest::nearest;
use super::{ADMIN_DATABASE, AuthMethod, Database, Network, Rule, RuleMethod, values};

const MAP_HINT: &str = "write `map = { \"common name\" = [\"user\"] }`";

/// The rules in their order.
pub(super) fn rules(root: &Section<'_>, databases: &[Database]) -> Vec<Rule> {
    let sections = root.sections("rule");
    sections.iter().for_each(|it| check_names(root, it, databases));
    sections.iter().for_each(|it| check_tls(root, it));
    sections.iter().filter_map(rule).collect()
}

/// What a rule needs of `[listen]`.
fn check_tls(root: &Section<'_>, section: &Section<'_>) {
    let listen = root.sections("listen");
    let is_missing = |key: &str| listen.iter().all(|it| it.written(key).is_none());
    let is_off = |it: &Section<'_>| it.optional("tls", values::choice).as_deref() == Some("off");
    let is_clear = is_missing("tls_certificate") || listen.iter().any(is_off);
    if section.optional("tls", values::bool) == Some(true) && is_clear {
        let hint = "write `tls_certificate` in [listen], and not `tls = \"off\"`";
        section.wrong("tls", Wrong::new("is for nobody: TLS is not offered", hint));
    }
    let method = section.optional("method", values::choice);
    if method.as_deref() == Some("certificate") && is_missing("tls_client_ca") {
        let hint = "write `tls_client_ca` in [listen]";
        section.wrong("method", Wrong::new("is for nobody: no certificate is asked for", hint));
    }
}

/// A rule for nobody is a slip that lets others in. Users that `auth_query` finds have any name.
fn check_names(root: &Section<'_>, section: &Section<'_>, databases: &[Database]) {
    let check = |key: &str, known: &[&str]| {
        for name in section.optional(key, values::text_list).unwrap_or_default() {
            if name != "all" && !known.contains(&name.as_str()) {
                let message = format!("there is no {} `{name}`", key.trim_end_matches('s'));
                let hint = match nearest(&name, known) {
                    Some(near) => format!("write \"{near}\""),
                    None => format!("write some of {}, or \"all\"", known.join(", ")),
                };
                section.wrong(key, Wrong::new(message, hint));
            }
        }
    };
    let users = root.sections("user");
    let names = users.iter().filter_map(|it| it.written("name")?.get_ref().as_str());
    if databases.iter().all(|it| it.auth_query.is_none()) {
        check("users", &names.collect::<Vec<_>>());
    }
    let names = databases.iter().map(|it| it.name.as_str());
    check("databases", &names.chain([ADMIN_DATABASE]).collect::<Vec<_>>());
}

fn rule(section: &Section<'_>) -> Option<Rule> {
    let method = section.required("method", values::choice);
    let rule = Rule {
        users: names(section, "users"),
        databases: names(section, "databases"),
        networks: section.value("networks", networks),
        tls: section.value("tls", values::bool),
        map: section.optional("map", map).unwrap_or_default(),
        allow_cleartext: section.value("allow_cleartext", values::bool),
        method: match method?.as_str() {
            "trust" => RuleMethod::Ask(AuthMethod::Trust),
            "password" => RuleMethod::Ask(AuthMethod::Password),
            "md5" => RuleMethod::Ask(AuthMethod::Md5),
            "certificate" => RuleMethod::Certificate,
            "reject" => RuleMethod::Reject,
            _ => RuleMethod::Ask(AuthMethod::ScramSha256),
        },
    };
    check(section, &rule);
    Some(rule)
}

/// What does not go together.
fn check(section: &Section<'_>, rule: &Rule) {
    let asks_in_clear = rule.method == RuleMethod::Ask(AuthMethod::Password);
    if asks_in_clear && !rule.allow_cleartext && !rule.is_private() {
        let hint = "write `tls = true`, or networks of Unix sockets and this machine such as \
                    [\"unix\", \"127.0.0.0/8\", \"::1/128\"], or `allow_cleartext = true`";
        section.wrong("method", Wrong::new("lets passwords cross networks in clear", hint));
    }
    if rule.allow_cleartext && !asks_in_clear {
        let hint = "leave it out, or write `method = \"password\"`";
        section.wrong("allow_cleartext", Wrong::new("is for method \"password\"", hint));
    }
    if !rule.map.is_empty() && rule.method != RuleMethod::Certificate {
        let hint = "leave it out, or write `method = \"certificate\"`";
        section.wrong("map", Wrong::new("is for method \"certificate\"", hint));
    }
    if rule.tls && !rule.networks.is_empty() && rule.networks.iter().all(|it| *it == Network::Unix)
    {
        let hint = "leave out `tls`, or write another network";
        section.wrong("tls", Wrong::new("is not spoken on Unix sockets", hint));
    }
}

/// Names; none where everybody is meant.
fn names(section: &Section<'_>, key: &str) -> Vec<String> {
    let names = section.value(key, values::text_list);
    if names.iter().any(|it| it == "all") { Vec::new() } else { names }
}

fn networks(value: &DeValue<'_>, kind: Kind) -> Result<Vec<Network>, Wrong> {
    let read = |text: &String| {
        let network = text.parse();
        network.map_err(|hint: String| Wrong::new(format!("has no network `{text}`"), hint))
    };
    values::text_list(value, kind)?.iter().map(read).collect()
}

/// Common name → users.
fn map(value: &DeValue<'_>, _: Kind) -> Result<BTreeMap<String, Vec<String>>, Wrong> {
    let DeValue::Table(table) = value else {
        return Err(values::mistyped(value, "a table", MAP_HINT));
    };
    let entry = |(name, users): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<_>)| {
        let users = values::text_list(users.get_ref(), Kind::TextList).map_err(|wrong| {
            Wrong::new(format!("of `{}` {}", name.get_ref(), wrong.message), MAP_HINT)
        })?;
        Ok((name.get_ref().as_ref().to_owned(), users))
    };
    table.iter().map(entry).collect()
}
