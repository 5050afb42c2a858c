//! Roles: who may do what is this one table. [clause 8.2.3]
//!
//! A person's roles stand in the authority document. No role may both ask for a thing and approve it in person: whoever
//! asked is left out when voices are counted, whatever their roles. Being root is no role.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What a person or a program is to this deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Answers for the deployment: asks, speaks, stops.
    Owner,
    /// Keeps it running: makes keys, applies what only tightens, asks for the rest.
    Operator,
    /// Holds a share of what restores keys.
    Custodian,
    /// Says yes or no to what others ask.
    Approver,
    /// Reads everything and does nothing.
    Auditor,
    /// A wallet app on `wallet.sock`.
    App,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// Read status, keys, rules, log.
    Look,
    /// Use a key.
    Use,
    /// Stop a key: stopping is cheap, so that whoever sees a fire can pull the bell.
    Stop,
    /// Make, adopt, activate, rotate keys.
    Make,
    /// Run the daemon: PIN, token check, reload, what tightens the policy.
    Run,
    /// Ask for what needs a quorum.
    Ask,
    /// Approve or refuse what somebody else asked for.
    Speak,
    /// Hold a share.
    Hold,
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Look, Self::Use, Self::Stop, Self::Make, Self::Run, Self::Ask, Self::Speak, Self::Hold];

    /// The word in sentences and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Use => "use",
            Self::Stop => "stop",
            Self::Make => "make",
            Self::Run => "run",
            Self::Ask => "ask",
            Self::Speak => "speak",
            Self::Hold => "hold",
        }
    }
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Owner, Self::Operator, Self::Custodian, Self::Approver, Self::Auditor, Self::App];

    /// The word in the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Operator => "operator",
            Self::Custodian => "custodian",
            Self::Approver => "approver",
            Self::Auditor => "auditor",
            Self::App => "app",
        }
    }

    /// The table.
    // [clause 8.2.3-c] each role does what stands here and nothing else
    #[must_use]
    pub fn acts(self) -> &'static [Act] {
        match self {
            Self::Owner => &[Act::Look, Act::Stop, Act::Ask, Act::Speak],
            Self::Operator => &[Act::Look, Act::Stop, Act::Make, Act::Run, Act::Ask],
            Self::Custodian => &[Act::Look, Act::Hold],
            Self::Approver => &[Act::Look, Act::Stop, Act::Speak],
            Self::Auditor => &[Act::Look],
            Self::App => &[Act::Use],
        }
    }

    /// Whether this role may.
    #[must_use]
    pub fn may(self, act: Act) -> bool {
        self.acts().contains(&act)
    }
}

/// Whether one of several roles may.
#[must_use]
pub fn may(roles: &BTreeSet<Role>, act: Act) -> bool {
    roles.iter().any(|r| r.may(act))
}

/// Roles that one person cannot have together, and why.
#[must_use]
pub fn clash(roles: &BTreeSet<Role>) -> Option<&'static str> {
    if roles.contains(&Role::App) {
        return Some("a person is no app");
    }
    if roles.contains(&Role::Auditor) && roles.len() > 1 {
        return Some("an auditor reads what others do, and so is nothing else");
    }
    if roles.contains(&Role::Operator) && roles.contains(&Role::Custodian) {
        return Some("who runs the machine holds no share of what restores its keys");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: &str = "          look use stop make run ask speak hold
    owner yes  .   yes  .    .   yes yes   .
 operator yes  .   yes  yes  yes yes .     .
custodian yes  .   .    .    .   .   .     yes
 approver yes  .   yes  .    .   .   yes   .
  auditor yes  .   .    .    .   .   .     .
      app .    yes .    .    .   .   .     .
";

    // [clause 8.2.3-c] test
    #[test]
    fn who_may_do_what_is_what_was_reviewed() {
        let head: Vec<_> = Act::ALL.iter().map(|a| a.as_str()).collect();
        let mut text = format!("{:9} {}\n", "", head.join(" "));
        for role in Role::ALL {
            let row: Vec<String> = Act::ALL
                .iter()
                .map(|a| {
                    format!("{:width$}", if role.may(*a) { "yes" } else { "." }, width = a.as_str().len())
                })
                .collect();
            text += &format!("{:>9} {}\n", role.as_str(), row.join(" ").trim_end());
        }
        assert_eq!(text, MATRIX, "\n{text}");
    }

    // [clause 8.2.3-c] test
    #[test]
    fn roles_that_defeat_each_other_do_not_meet_in_one_person() {
        let of = |roles: &[Role]| clash(&roles.iter().copied().collect()).is_some();
        assert!(of(&[Role::Auditor, Role::Operator]) && of(&[Role::Auditor, Role::Approver]));
        assert!(of(&[Role::Operator, Role::Custodian]) && of(&[Role::App]));
        assert!(!of(&[Role::Operator, Role::Approver]) && !of(&[Role::Owner, Role::Custodian]));
        assert!(!of(&[Role::Auditor]));
    }
}
