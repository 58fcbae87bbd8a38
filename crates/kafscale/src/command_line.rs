//! Commands that messages print: with everything that the user gave and that the command needs, and quoted, so that a shell reads
//! them as they are meant.
//!
//! Invariant: no secret is printed. One that was given by itself, and not in a file, is named by the variable that holds it.

use std::fmt::{self, Display};

use kafscale_core::shell::quoted;

use crate::backend::{ETCD_CONNECT_TIMEOUT, ETCD_REQUEST_TIMEOUT, EtcdArgs};
use crate::s3::{CONNECT_TIMEOUT, REQUEST_TIMEOUT, S3Args};
use crate::units::Span;

/// A command, as it is to be typed.
#[derive(Debug, Clone)]
pub struct CommandLine(String);

/// Flags of a command with their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given(Vec<(&'static str, Value)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Word(String),
    /// The name of the variable that holds a secret.
    InVariable(&'static str),
}

impl CommandLine {
    pub fn new(command: &str) -> Self {
        Self(command.to_owned())
    }

    pub fn flag(self, flag: &str, value: impl Display) -> Self {
        Self(format!("{} {flag} {}", self.0, quoted(&value.to_string())))
    }

    pub fn switch(self, flag: &str) -> Self {
        Self(format!("{} {flag}", self.0))
    }

    pub fn with(self, given: &Given) -> Self {
        given.0.iter().fold(self, |line, (flag, value)| match value {
            Value::Word(word) => line.flag(flag, word),
            Value::InVariable(name) => line.switch(&format!("{flag} \"${name}\"")),
        })
    }
}

impl Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Given {
    fn add(&mut self, flag: &'static str, value: Option<impl Display>) {
        self.0.extend(value.map(|value| (flag, Value::Word(value.to_string()))));
    }

    fn add_secret(&mut self, flag: &'static str, secret: Option<&String>, variable: &'static str) {
        self.0.extend(secret.map(|_| (flag, Value::InVariable(variable))));
    }

    /// How the object store is spoken to, where that is not the default. `variables` are the process's, of which Amazon's say where
    /// the store is, too; its keys are found where they were found.
    pub fn s3(args: &S3Args, variables: impl Iterator<Item = (String, String)>) -> Self {
        let variables: Vec<_> = variables.collect();
        let variable = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| variables.iter().find(|(n, _)| n == name))
                .map(|(_, value)| value.clone())
        };
        let mut given = Self::default();
        let endpoint = args.s3_endpoint.clone();
        given.add(
            "--s3-endpoint",
            endpoint.or_else(|| variable(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])),
        );
        let region = args.s3_region.clone();
        given.add("--s3-region", region.or_else(|| variable(&["AWS_REGION", "AWS_DEFAULT_REGION"])));
        given.add("--s3-virtual-host", args.s3_virtual_host.then_some(true));
        given.add("--s3-access-key-id", args.s3_access_key_id.as_ref());
        let secret = args.s3_secret_access_key.as_ref();
        given.add_secret("--s3-secret-access-key", secret, "KAFSCALE_S3_SECRET_ACCESS_KEY");
        let file = args.s3_secret_access_key_file.as_ref();
        given.add("--s3-secret-access-key-file", file.map(|file| file.display()));
        given.add("--s3-request-timeout", other_than(REQUEST_TIMEOUT, args.s3_request_timeout));
        given.add("--s3-connect-timeout", other_than(CONNECT_TIMEOUT, args.s3_connect_timeout));
        given
    }

    /// How etcd is spoken to, where that is not the default.
    pub fn etcd(args: &EtcdArgs) -> Self {
        let mut given = Self::default();
        given.add("--etcd-username", args.etcd_username.as_ref());
        given.add_secret("--etcd-password", args.etcd_password.as_ref(), "KAFSCALE_ETCD_PASSWORD");
        let files = [
            ("--etcd-password-file", &args.etcd_password_file),
            ("--etcd-ca-file", &args.etcd_ca_file),
            ("--etcd-cert-file", &args.etcd_cert_file),
            ("--etcd-key-file", &args.etcd_key_file),
        ];
        for (flag, file) in files {
            given.add(flag, file.as_ref().map(|file| file.display()));
        }
        given.add("--etcd-connect-timeout", other_than(ETCD_CONNECT_TIMEOUT, args.etcd_connect_timeout));
        given.add("--etcd-request-timeout", other_than(ETCD_REQUEST_TIMEOUT, args.etcd_request_timeout));
        given
    }

    pub fn and(mut self, more: Self) -> Self {
        self.0.extend(more.0);
        self
    }
}

fn other_than(default: Span, given: Span) -> Option<Span> {
    (given != default).then_some(given)
}
