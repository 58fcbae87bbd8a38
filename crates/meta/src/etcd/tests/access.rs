//! Users, passwords and TLS.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::{
    connect,
    server::{EtcdServer, enable_auth},
};
use crate::{Credentials, ErrorKind, EtcdOptions, MetaStore, MetaStoreExt, Revision, TlsOptions};

fn user(username: &str, password: &str) -> EtcdOptions {
    let credentials = Credentials { username: username.to_owned(), password: password.to_owned() };
    EtcdOptions { credentials: Some(credentials), ..EtcdOptions::default() }
}

#[tokio::test]
async fn a_user_gets_what_it_may_and_a_stranger_nothing() {
    let mut server = EtcdServer::start().await;
    let url = server.url();
    let open = connect(&url, &user("kafscale", "secret")).await.unwrap();
    open.put("/kafscale/x", Bytes::from_static(b"before")).await.unwrap();
    enable_auth(&open, "root's", ["kafscale", "secret"], "/kafscale/").await;
    // Authentication was switched on under a store that is open.
    open.put("/kafscale/x", Bytes::from_static(b"after")).await.unwrap();

    for stranger in [EtcdOptions::default(), user("kafscale", "wrong"), user("nobody", "secret")] {
        assert_eq!(connect(&url, &stranger).await.unwrap_err().kind(), ErrorKind::Denied);
    }
    let store = connect(&url, &user("kafscale", "secret")).await.unwrap();
    assert_eq!(store.get("/kafscale/x").await.unwrap().unwrap().value, "after");
    assert_eq!(store.get("/other/x").await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(store.put("/other/x", Bytes::new()).await.unwrap_err().kind(), ErrorKind::Denied);

    // A restart forgets the tokens, which is nothing that the user of a store must know.
    let mut watch = store.watch("/kafscale/", Revision(0)).await.unwrap();
    server.kill();
    server.restart().await;
    let put = store.put("/kafscale/x", Bytes::from_static(b"again")).await;
    let revision = match put {
        Ok(revision) => revision,
        // On a connection whose end was not noticed yet.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
            store.put("/kafscale/x", Bytes::from_static(b"again")).await.unwrap()
        }
    };
    assert_eq!(watch.next().await.unwrap().revision, revision);
    let mut forbidden = store.watch("/other/", Revision(1)).await.unwrap();
    assert_eq!(forbidden.next().await.unwrap_err().kind(), ErrorKind::Denied);
}

/// Writes an authority, and a certificate and key that it signed for each name.
fn make_certificates(dir: &Path, names: &[&str]) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
    for name in names {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn both_sides_prove_who_they_are_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    make_certificates(dir.path(), &["server", "client"]);
    let file = |name: &str| dir.path().join(name);
    let argument = |flag: &str, name: &str| format!("--{flag}={}", file(name).display());
    let arguments = vec![
        argument("cert-file", "server.pem"),
        argument("key-file", "server-key.pem"),
        argument("trusted-ca-file", "ca.pem"),
        "--client-cert-auth".to_owned(),
    ];
    let server = EtcdServer::start_with(arguments).await;
    let with = |tls: TlsOptions| EtcdOptions {
        tls,
        request_timeout: Duration::from_secs(3),
        ..EtcdOptions::default()
    };
    let identity = Some((file("client.pem"), file("client-key.pem")));
    let ca_file = Some(file("ca.pem"));

    let proven = TlsOptions { ca_file: ca_file.clone(), identity: identity.clone() };
    let store = connect(&server.url(), &with(proven.clone())).await.unwrap();
    store.put("/k", Bytes::from_static(b"over TLS")).await.unwrap();

    let without_certificate = TlsOptions { ca_file, identity: None };
    let without_authority = TlsOptions { ca_file: None, identity };
    for refused in [without_certificate, without_authority] {
        let error = connect(&server.url(), &with(refused)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    }
    let missing = TlsOptions { ca_file: Some(file("nothing.pem")), identity: None };
    let error = connect(&server.url(), &with(missing)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("nothing.pem"), "{error}");
    let plain = server.url().replace("etcds:", "etcd:");
    assert_eq!(connect(&plain, &with(proven)).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(connect(&plain, &with(TlsOptions::default())).await.is_err());
}
