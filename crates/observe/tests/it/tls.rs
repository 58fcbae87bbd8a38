//! TLS: at the listener, followed while its files change, and towards metrics.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::client::Client;
use crate::cluster::{Cluster, TOKEN};

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Writes a new certificate of a name and its key.
    fn issue(&self, name: &str, cert: &Path, key: &Path) {
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let signed = params.signed_by(&pair, &self.issuer).unwrap();
        std::fs::write(cert, signed.pem()).unwrap();
        std::fs::write(key, pair.serialize_pem()).unwrap();
    }

    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_root_certificates(roots).with_no_client_auth()).into()
    }
}

/// The certificate that is shown to a client that asks for a name.
async fn shown(connector: &TlsConnector, address: std::net::SocketAddr) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = connector.connect(ServerName::try_from("mcp.test").unwrap(), stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_speaks_tls_and_takes_a_new_certificate_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let authority = Authority::new();
    authority.issue("mcp.test", &cert, &key);
    let server = Cluster::new()
        .await
        .serve_with(|s| {
            s.edge.identity.auth_token = Some(TOKEN.into());
            s.edge.identity.public_url = Some("https://mcp.test/mcp".into());
            (s.edge.identity.tls_cert_file, s.edge.identity.tls_key_file) =
                (Some(cert.clone()), Some(key.clone()));
        })
        .await;
    let mut client = Client::new(server.addr());
    client.tls = Some((authority.connector(), "mcp.test"));
    client.answer("cluster_status", json!({})).await;
    // The public name is one that clients may ask for.
    let reply = client.request_with("tools/list", json!({}), &[("host", "mcp.test")]).await;
    assert_eq!(reply.status, StatusCode::OK);

    // Plain HTTP gets no answer, and in any case no data.
    let mut plain = TcpStream::connect(server.addr()).await.unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.windows(2).any(|two| two == b"ok"), "{answer:?}");

    // A key that does not belong to the certificate changes nothing.
    let connector = authority.connector();
    let before = shown(&connector, server.addr()).await;
    let good_key = std::fs::read(&key).unwrap();
    std::fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(shown(&connector, server.addr()).await, before);
    std::fs::write(&key, good_key).unwrap();

    authority.issue("mcp.test", &cert, &key);
    let deadline = Instant::now() + Duration::from_secs(20);
    while shown(&connector, server.addr()).await == before {
        assert!(Instant::now() < deadline, "the new certificate is not shown");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    client.answer("cluster_status", json!({})).await;
}

/// Answers everything with the same metrics over TLS, until the test ends.
async fn metrics_over_tls(cert: &Path, key: &Path) -> std::net::SocketAddr {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_file_iter(cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let text = "kafscale_connections 7\nkafscale_broker_uptime_seconds 5\n";
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
                let _ = stream.write_all((head + text).as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_read_over_tls_from_whom_an_authority_vouches_for() {
    let dir = tempfile::tempdir().unwrap();
    let [cert, key, ca, other_ca] =
        ["cert.pem", "key.pem", "ca.pem", "other.pem"].map(|name| dir.path().join(name));
    let authority = Authority::new();
    authority.issue("localhost", &cert, &key);
    std::fs::write(&ca, authority.issuer.pem()).unwrap();
    std::fs::write(&other_ca, Authority::new().issuer.pem()).unwrap();
    let address = metrics_over_tls(&cert, &key).await;
    for (ca, connections) in [(&ca, json!(7.0)), (&other_ca, json!(null))] {
        let server = Cluster::new()
            .await
            .serve_with(|s| {
                s.edge.identity.auth_token = Some(TOKEN.into());
                s.broker_metrics_urls = vec![format!("https://localhost:{}/metrics", address.port())];
                s.edge.identity.ca_file = Some(ca.clone());
            })
            .await;
        let answer =
            Client::new(server.addr()).answer("cluster_metrics", json!({"sections": ["brokers"]})).await;
        assert_eq!(answer["brokers"]["connections"]["value"], connections, "{answer}");
        if connections.is_null() {
            let why = answer["brokers"]["rows"][0][4].as_str().unwrap();
            assert!(why.contains("TLS failed"), "{why}");
        }
    }
}
