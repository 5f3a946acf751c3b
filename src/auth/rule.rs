//! `[[rule]]`: who has to prove what, in the spirit of pg_hba.conf. The first rule that fits counts.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::AuthMethod;

/// One rule. Empty lists fit everything.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub users: Vec<String>,
    pub databases: Vec<String>,
    pub networks: Vec<Network>,
    /// Fits only connections over TLS.
    pub tls: bool,
    pub method: RuleMethod,
    /// For certificates: common name → users it may log in as, beside the one of that name.
    pub map: BTreeMap<String, Vec<String>>,
    /// A password may be asked for in clear wherever the rule fits.
    pub allow_cleartext: bool,
}

/// What a rule demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleMethod {
    /// An exchange of messages (or none, with trust).
    Ask(AuthMethod),
    /// A client certificate that was verified and names the user.
    Certificate,
    Reject,
}

/// Where clients come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    All,
    /// Unix sockets.
    Unix,
    /// The addresses that agree with this one in so many leading bits.
    Cidr(IpAddr, u8),
}

/// A client as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    pub user: &'a str,
    pub database: &'a str,
    /// `None`: by a Unix socket.
    pub address: Option<IpAddr>,
    pub is_tls: bool,
}

impl Visitor<'_> {
    /// Whether nobody on the way can read a password: TLS, a Unix socket or this machine.
    pub fn is_private(&self) -> bool {
        self.is_tls || self.address.is_none_or(|it| it.to_canonical().is_loopback())
    }
}

impl Rule {
    /// The first of the rules that fits.
    pub fn first<'a>(rules: &'a [Self], visitor: &Visitor<'_>) -> Option<&'a Self> {
        rules.iter().find(|rule| rule.fits(visitor))
    }

    fn fits(&self, visitor: &Visitor<'_>) -> bool {
        let named = |names: &[String], name| names.is_empty() || names.iter().any(|it| it == name);
        let networks = &self.networks;
        (visitor.is_tls || !self.tls)
            && named(&self.users, visitor.user)
            && named(&self.databases, visitor.database)
            && (networks.is_empty() || networks.iter().any(|it| it.holds(visitor.address)))
    }

    /// Whether a certificate of this common name may log in as the user.
    pub fn maps(&self, common_name: &str, user: &str) -> bool {
        common_name == user
            || self.map.get(common_name).is_some_and(|users| users.iter().any(|it| it == user))
    }

    /// Whether all it fits is private by itself: over TLS, a Unix socket or on this machine.
    pub fn is_private(&self) -> bool {
        let is_local = |it: &Network| match it {
            Network::All => false,
            Network::Unix => true,
            Network::Cidr(address, bits) => address.is_loopback() && *bits >= 8,
        };
        self.tls || (!self.networks.is_empty() && self.networks.iter().all(is_local))
    }
}

impl Network {
    fn holds(&self, address: Option<IpAddr>) -> bool {
        match (self, address.map(|it| it.to_canonical())) {
            (Self::All, _) | (Self::Unix, None) => true,
            (Self::Cidr(network, bits), Some(address)) => {
                leading(*network, *bits) == leading(address, *bits)
                    && network.is_ipv4() == address.is_ipv4()
            }
            (Self::Unix, Some(_)) | (Self::Cidr(..), None) => false,
        }
    }
}

/// The address with all but its leading bits cleared, left-aligned.
fn leading(address: IpAddr, bits: u8) -> u128 {
    let all = match address {
        IpAddr::V4(it) => u128::from(u32::from(it)) << 96,
        IpAddr::V6(it) => u128::from(it),
    };
    match bits {
        0 => 0,
        bits => all & (u128::MAX << 128_u8.saturating_sub(bits)),
    }
}

/// `all`, `unix`, `10.0.0.0/8`, `::1/128`, or an address alone. The error says what to write.
impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "write \"10.0.0.0/8\", \"::1/128\", \"unix\" or \"all\"".to_owned();
        match text {
            "all" => return Ok(Self::All),
            "unix" => return Ok(Self::Unix),
            _ => (),
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|it| *it <= most).ok_or_else(form)?,
            None => most,
        };
        let kept = leading(address, bits);
        if kept != leading(address, most) {
            let network: IpAddr = match address {
                IpAddr::V4(_) => IpAddr::V4(((kept >> 96) as u32).into()),
                IpAddr::V6(_) => IpAddr::V6(kept.into()),
            };
            return Err(format!("write \"{network}/{bits}\", or \"{address}/{most}\""));
        }
        Ok(Self::Cidr(address, bits))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Unix => f.write_str("unix"),
            Self::Cidr(address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn networks_hold_addresses() {
        let holds = |text: &str, address: &str| network(text).holds(address.parse().ok());
        for (text, address, expected) in [
            ("all", "", true),
            ("all", "10.0.0.1", true),
            ("unix", "", true),
            ("unix", "127.0.0.1", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("10.0.0.0/8", "", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "1.2.3.4", false),
            ("::/0", "fe80::1", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("fe80::/10", "febf::1", true),
            ("fe80::/10", "fec0::1", false),
        ] {
            assert_eq!(holds(text, address), expected, "{text} {address}");
        }
    }

    #[test]
    fn networks_are_read() {
        for text in ["all", "unix", "10.0.0.0/8", "::1/128"] {
            assert_eq!(network(text).to_string(), text);
        }
        for (text, hint) in [
            ("10.0.0.0/33", "write \"10.0.0.0/8\""),
            ("10.0.0/8", "write \"10.0.0.0/8\""),
            ("localhost", "write \"10.0.0.0/8\""),
            ("10.1.2.3/8", "write \"10.0.0.0/8\", or \"10.1.2.3/32\""),
            ("fe80::1/10", "write \"fe80::/10\", or \"fe80::1/128\""),
        ] {
            assert!(text.parse::<Network>().unwrap_err().starts_with(hint), "{text}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rule = |users: &[&str], databases: &[&str], networks: &[&str], tls, method| Rule {
            users: users.iter().map(|it| (*it).to_owned()).collect(),
            databases: databases.iter().map(|it| (*it).to_owned()).collect(),
            networks: networks.iter().map(|it| network(it)).collect(),
            tls,
            method,
            map: BTreeMap::from([("ops".to_owned(), vec!["app".to_owned()])]),
            allow_cleartext: false,
        };
        let rules = [
            rule(&["root"], &[], &[], false, RuleMethod::Reject),
            rule(&[], &["app"], &["unix"], false, RuleMethod::Ask(AuthMethod::Trust)),
            rule(&[], &[], &["10.0.0.0/8"], true, RuleMethod::Certificate),
            rule(&[], &[], &["127.0.0.0/8", "::1"], false, RuleMethod::Ask(AuthMethod::Md5)),
        ];
        let first = |user, database, address: &str, is_tls| {
            let visitor = Visitor { user, database, address: address.parse().ok(), is_tls };
            Rule::first(&rules, &visitor).map(|it| it.method)
        };
        assert_eq!(first("root", "app", "", true), Some(RuleMethod::Reject));
        assert_eq!(first("app", "app", "", false), Some(RuleMethod::Ask(AuthMethod::Trust)));
        assert_eq!(first("app", "other", "", false), None);
        assert_eq!(first("app", "app", "10.0.0.1", true), Some(RuleMethod::Certificate));
        assert_eq!(first("app", "app", "10.0.0.1", false), None);
        assert_eq!(first("app", "app", "::1", false), Some(RuleMethod::Ask(AuthMethod::Md5)));
        assert!(rules[2].maps("app", "app") && rules[2].maps("ops", "app"));
        assert!(!rules[2].maps("ops", "root") && !rules[2].maps("x", "app"));
        assert_eq!([false, true, true, true], [0, 1, 2, 3].map(|at| rules[at].is_private()));
    }
}
