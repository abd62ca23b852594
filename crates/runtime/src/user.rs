//! Who a container runs as: numbers and names resolved with the image's own `/etc/passwd` and `/etc/group`, as containerd
//! does it. Pure: the texts of the two files are handed in.

use crate::User;
use serde::{Deserialize, Serialize};

/// A user resolved to numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All supplementary groups, ascending; the primary one is among them.
    pub groups: Vec<u32>,
    /// Home folder; `/` where the image knows none.
    pub home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        Some(Account { name: fields[0], uid, gid, home: fields.get(5).copied().unwrap_or("") })
    })
}

/// Name, number and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        Some((fields[0], fields.get(2)?.parse().ok()?, fields.get(3).copied().unwrap_or("")))
    })
}

/// Resolves what was asked for, and what it leaves open by what the image says (`USER[:GROUP]`). The error is for people.
pub fn resolve(asked: &User, image_user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (image_name, image_group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let account = match asked.uid {
        Some(uid) => accounts(passwd).find(|a| a.uid == uid),
        None if image_name.is_empty() => accounts(passwd).find(|a| a.uid == 0),
        None => accounts(passwd)
            .find(|a| a.name == image_name)
            .or_else(|| image_name.parse().ok().and_then(|uid: u32| accounts(passwd).find(|a| a.uid == uid))),
    };
    let uid = match (asked.uid, &account) {
        (Some(uid), _) => uid,
        (None, Some(account)) => account.uid,
        (None, None) if image_name.is_empty() => 0,
        (None, None) => image_name
            .parse()
            .map_err(|_| format!("unable to find user {image_name}: no matching entries in passwd file"))?,
    };
    let image_gid = || -> Result<Option<u32>, String> {
        if image_group.is_empty() || asked.uid.is_some() {
            return Ok(None);
        }
        if let Some((_, gid, _)) = groups(group).find(|(name, ..)| *name == image_group) {
            return Ok(Some(gid));
        }
        image_group
            .parse()
            .map(Some)
            .map_err(|_| format!("unable to find group {image_group}: no matching entries in group file"))
    };
    let gid = match asked.gid {
        Some(gid) => gid,
        None => image_gid()?.or(account.as_ref().map(|a| a.gid)).unwrap_or(0),
    };
    let mut all = asked.supplemental_groups.clone();
    all.push(gid);
    if let Some(account) = &account {
        let member = |members: &str| members.split(',').any(|name| name == account.name);
        all.extend(groups(group).filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid));
    }
    all.sort_unstable();
    all.dedup();
    let home = account.map(|a| a.home).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(Identity { uid, gid, groups: all, home: home.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:root\nadm:x:4:root,web\nweb:x:34:\nlogs:x:40:web\n";

    fn resolved(uid: Option<u32>, gid: Option<u32>, more: &[u32], image: &str) -> Result<Identity, String> {
        let asked = User { uid, gid, supplemental_groups: more.to_vec() };
        resolve(&asked, image, PASSWD, GROUP)
    }

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<Identity, String> {
        Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.into() })
    }

    #[test]
    fn an_image_without_a_user_runs_as_root() {
        assert_eq!(resolved(None, None, &[], ""), identity(0, 0, &[0, 4], "/root"));
    }

    #[test]
    fn a_name_brings_its_group_its_other_groups_and_its_home() {
        assert_eq!(resolved(None, None, &[7], "web"), identity(33, 34, &[4, 7, 34, 40], "/var/www"));
        assert_eq!(resolved(None, None, &[], "web:logs"), identity(33, 40, &[4, 40], "/var/www"));
        assert_eq!(resolved(None, None, &[], "33:9"), identity(33, 9, &[4, 9, 40], "/var/www"));
    }

    #[test]
    fn what_the_pod_asks_for_wins_over_the_image() {
        assert_eq!(resolved(Some(33), None, &[], "root:root"), identity(33, 34, &[4, 34, 40], "/var/www"));
        assert_eq!(resolved(Some(1000), None, &[], "web"), identity(1000, 0, &[0], "/"));
        assert_eq!(resolved(Some(1000), Some(5), &[], ""), identity(1000, 5, &[5], "/"));
        assert_eq!(resolved(None, Some(5), &[], "web:logs"), identity(33, 5, &[4, 5, 40], "/var/www"));
    }

    #[test]
    fn an_unknown_number_is_taken_as_it_is_and_an_unknown_name_is_an_error() {
        assert_eq!(resolved(None, None, &[], "1234"), identity(1234, 0, &[0], "/"));
        assert!(resolved(None, None, &[], "nobody").unwrap_err().contains("no matching entries in passwd"));
        assert!(resolved(None, None, &[], "web:none").unwrap_err().contains("no matching entries in group"));
    }
}
