//! Access tokens of an issuer: whom they let in, whom not, and what happens when keys change or the issuer is away.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::{Method, StatusCode};
use kafscale_observe::Server;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, Reply};
use crate::cluster::{Cluster, TOKEN};
use crate::issuer::{AUDIENCE, Issuer, encoded, now_s};

async fn server_of(issuer: &Issuer) -> Server {
    let url = issuer.url.clone();
    let settings = |s: &mut kafscale_observe::ObserveSettings| {
        s.edge.identity.oidc_issuer = Some(url);
        s.edge.identity.public_url = Some(AUDIENCE.into());
    };
    Cluster::new().await.serve_with(settings).await
}

async fn ask(client: &mut Client, token: &str) -> Reply {
    client.token = Some(token.to_owned());
    client.request("tools/list", json!({})).await
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_issuer_lets_its_holder_in_and_is_written_down() {
    let issuer = Issuer::new().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (url, log) = (issuer.url.clone(), path.clone());
    let server = Cluster::new()
        .await
        .serve_with(move |s| {
            s.edge.identity.oidc_issuer = Some(url);
            s.edge.identity.public_url = Some(AUDIENCE.into());
            s.edge.identity.auth_token = Some(TOKEN.into());
            s.edge.audit_log = Some(log);
        })
        .await;
    let mut client = Client::new(server.addr());
    // Tokens of the settings are accepted beside those of the issuer.
    client.answer("cluster_status", json!({})).await;
    for claims in [
        issuer.claims(),
        with(issuer.claims(), "aud", json!(["other", AUDIENCE])),
        with(with(issuer.claims(), "scope", Value::Null), "scp", json!(["observe"])),
        with(with(issuer.claims(), "scope", Value::Null), "roles", json!(["mutate", "observe"])),
    ] {
        client.token = Some(issuer.sign(&claims));
        client.answer("cluster_status", json!({})).await;
    }
    client.token = Some(issuer.sign_with(&json!({"alg": "ES256"}), &issuer.claims()));
    client.answer("cluster_status", json!({})).await;
    server.shutdown().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let who: Vec<_> = lines.iter().map(|line| line["principal"].as_str().unwrap()).collect();
    assert_eq!(who, ["default", "oidc:ana", "oidc:ana", "oidc:ana", "oidc:ana", "oidc:ana"]);
    assert_eq!((&lines[1]["oauth_client"], &lines[1]["peer"]), (&json!("agent-7"), &json!("127.0.0.1")));
    assert!(!text.contains("ey"), "a token is in the audit log");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_token_is_refused_with_the_reason() {
    let issuer = Issuer::new().await;
    let server = server_of(&issuer).await;
    let mut client = Client::new(server.addr());
    let good = issuer.claims();
    let stranger = Issuer::new().await;
    let public_key = issuer.state.key_set()["keys"][0].to_string();
    let hmac = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, public_key.as_bytes());
    let confused = format!("{}.{}", encoded(&json!({"alg": "HS256", "kid": "first"})), encoded(&good));
    let tag = ring::hmac::sign(&hmac, confused.as_bytes());
    let confused = format!(
        "{confused}.{}",
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, tag)
    );
    let unsigned = format!("{}.{}.", encoded(&json!({"alg": "none"})), encoded(&good));
    let mut tampered = issuer.sign(&good);
    tampered = tampered.replace(&encoded(&good), &encoded(&with(good.clone(), "sub", json!("bob"))));
    let header = |header: Value| issuer.sign_with(&header, &good);
    for (token, why) in [
        (issuer.sign(&with(good.clone(), "exp", json!(now_s() - 60))), "has expired"),
        (issuer.sign(&with(good.clone(), "nbf", json!(now_s() + 600))), "not valid yet"),
        (issuer.sign(&with(good.clone(), "aud", json!("https://other.example"))), "another audience"),
        (issuer.sign(&with(good.clone(), "iss", json!("https://other.example"))), "another issuer"),
        (
            issuer.sign(&with(good.clone(), "iss", json!([issuer.url, "https://other.example"]))),
            "another issuer",
        ),
        (issuer.sign(&with(good.clone(), "iss", json!([issuer.url]))), "another issuer"),
        (issuer.sign(&with(good.clone(), "exp", Value::Null)), "lacks exp, iss or aud"),
        (issuer.sign(&with(good.clone(), "aud", Value::Null)), "lacks exp, iss or aud"),
        (issuer.sign(&with(good.clone(), "cnf", json!({"jkt": "x"}))), "bound to a key"),
        (
            issuer.sign(&with(with(good.clone(), "sub", Value::Null), "client_id", Value::Null)),
            "neither sub nor client_id",
        ),
        (header(json!({"alg": "ES256", "typ": "logout+jwt", "kid": "first"})), "not an access token"),
        (header(json!({"alg": "ES256", "crit": ["x"], "kid": "first"})), "critical headers"),
        (header(json!({"alg": "ES256", "kid": "nobody's"})), "no key of the issuer"),
        (stranger.sign(&good), "no key of the issuer"),
        (tampered, "no key of the issuer"),
        (confused, "not signed with an algorithm"),
        (unsigned, "not a JWT"),
        ("a.b.c".to_owned(), "not a JWT"),
        ("not-a-jwt".to_owned(), "not known"),
    ] {
        let reply = ask(&mut client, &token).await;
        let challenge = reply.header("www-authenticate").to_owned();
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{why}: {}", reply.body);
        assert!(
            challenge.contains("error=\"invalid_token\"") && challenge.contains(why),
            "{why}: {challenge}"
        );
        assert!(reply.body.contains(why), "{why}: {}", reply.body);
    }
    let reply = ask(&mut client, &issuer.sign(&with(good, "scope", json!("openid")))).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert!(reply.header("www-authenticate").contains("error=\"insufficient_scope\", scope=\"observe\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_token_finds_the_issuer() {
    let issuer = Issuer::new().await;
    let server = server_of(&issuer).await;
    let mut client = Client::new(server.addr());
    client.token = None;
    let reply = client.request("tools/list", json!({})).await;
    let metadata = "https://mcp.example/.well-known/oauth-protected-resource/mcp";
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        reply.header("www-authenticate"),
        format!("Bearer realm=\"kafscale\", scope=\"observe\", resource_metadata=\"{metadata}\"")
    );
    for path in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        let reply = client.send(Method::GET, path, &[], String::new()).await;
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, "application/json"));
        let found = reply.json();
        assert_eq!(found["resource"], AUDIENCE);
        assert_eq!(found["authorization_servers"], json!([issuer.url]));
        assert_eq!(found["scopes_supported"], json!(["observe"]));
        assert_eq!(found["bearer_methods_supported"], json!(["header"]));
    }
    // Without an issuer there is nothing to tell.
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let reply = client.send(Method::GET, "/.well-known/oauth-protected-resource", &[], String::new()).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_kept_and_fetched_anew_when_they_are_rotated() {
    let issuer = Issuer::new().await;
    let server = server_of(&issuer).await;
    let mut client = Client::new(server.addr());
    let fetched = || issuer.state.key_requests.load(Ordering::Relaxed);
    let old = issuer.sign(&issuer.claims());
    for _ in 0..20 {
        assert_eq!(ask(&mut client, &old).await.status, StatusCode::OK);
    }
    assert_eq!(fetched(), 1);
    issuer.rotate("second");
    issuer.revoke_old_keys();
    let new = issuer.sign(&issuer.claims());
    // Keys are not fetched more often than every five seconds.
    let deadline = Instant::now() + Duration::from_secs(20);
    while ask(&mut client, &new).await.status != StatusCode::OK {
        assert!(Instant::now() < deadline, "the new key is not known");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(fetched(), 2);
    assert_eq!(ask(&mut client, &old).await.status, StatusCode::UNAUTHORIZED);
    // Nor does a flood of tokens with invented keys make it ask more often.
    for i in 0..200 {
        let token = issuer.sign_with(&json!({"alg": "ES256", "kid": format!("k{i}")}), &issuer.claims());
        assert_eq!(ask(&mut client, &token).await.status, StatusCode::UNAUTHORIZED);
    }
    assert!(fetched() <= 3, "{} fetches", fetched());
    // What is known stays known while the issuer is away.
    *issuer.state.is_down.lock() = true;
    assert_eq!(ask(&mut client, &new).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_away_is_not_taken_for_a_wrong_token() {
    let issuer = Issuer::new().await;
    *issuer.state.is_down.lock() = true;
    let server = server_of(&issuer).await;
    let mut client = Client::new(server.addr());
    let token = issuer.sign(&issuer.claims());
    let reply = ask(&mut client, &token).await;
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "5"));
    assert!(reply.body.contains("answered 503"), "{}", reply.body);
    *issuer.state.is_down.lock() = false;
    // An issuer that calls itself otherwise speaks for somebody else.
    *issuer.state.metadata.lock() =
        Some(json!({"issuer": "https://x", "jwks_uri": format!("{}/keys", issuer.url)}));
    let until = async |client: &mut Client, status: StatusCode, says: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let reply = ask(client, &token).await;
            if reply.status == status && reply.body.contains(says) {
                return;
            }
            assert!(Instant::now() < deadline, "{} {}", reply.status, reply.body);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    until(&mut client, StatusCode::SERVICE_UNAVAILABLE, "name another issuer").await;
    *issuer.state.metadata.lock() = None;
    until(&mut client, StatusCode::OK, "").await;
}
