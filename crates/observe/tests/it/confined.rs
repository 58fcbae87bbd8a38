//! A confined caller: two clusters that are alike but for what it does not see answer it alike, to the letter.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use kafscale_meta::records::{
    GroupRecord, HistoryEntry, HistoryKind, HistoryRecord, LostRecord, MemberRecord, OffsetKey, OffsetRecord,
};
use kafscale_observe::Server;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::client::Client;
use crate::cluster::{Cluster, TOKEN};
use crate::issuer::{AUDIENCE, Issuer};

const RULES: &str = r#"
    [[rule]]
    name = "operators"
    principals = ["ops"]
    topics = ["*"]
    groups = ["*"]

    [[rule]]
    name = "mine"
    principals = ["bot"]
    topics = ["mine.*"]
    groups = ["mine-*", "shared"]

    [[rule]]
    name = "by claim"
    claims = { groups = ["payments"] }
    topics = ["mine.a"]
"#;
/// Part of every name that is not to be seen.
const HIDDEN: &str = "secret";

fn served(dir: &Path, s: &mut kafscale_observe::ObserveSettings) {
    let hash = |token: &str| Sha256::digest(token).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let tokens = ["ops", "bot", "stranger"].map(|n| format!("{n} observe sha256:{}\n", hash(&token_of(n))));
    std::fs::write(dir.join("tokens"), tokens.concat()).unwrap();
    std::fs::write(dir.join("policy"), RULES).unwrap();
    s.edge.identity.auth_token_file = Some(dir.join("tokens"));
    s.edge.audit_log = Some(dir.join("audit.jsonl"));
    s.policy_file = Some(dir.join("policy"));
}

fn token_of(name: &str) -> String {
    format!("{TOKEN}-{name}")
}

fn client_of(server: &Server, name: &str) -> Client {
    let mut client = Client::new(server.addr());
    client.token = Some(token_of(name));
    client
}

async fn what_is_seen() -> Cluster {
    let mut cluster = Cluster::new().await;
    cluster.topic("mine.a", 3, &[("retention.ms", "604800000")]).await;
    cluster.topic("mine.b", 1, &[]).await;
    cluster.group("mine-lags", "mine.a", 25, 2).await;
    cluster.group("mine-idle", "mine.b", 0, 0).await;
    cluster.group("shared", "mine.b", 3, 0).await;
    let blind = GroupRecord {
        protocol_type: "consumer".into(),
        protocol_name: None,
        generation: 1,
        leader: None,
        state_timestamp_ms: 1,
        members: Vec::new(),
    };
    cluster.metadata.save_group("mine-blind", &blind).await.unwrap();
    cluster.add_metrics("kafscale_topic_received_records_total{topic=\"mine.a\"} 5\n");
    cluster.add_metrics("kafscale_topic_received_bytes_total{topic=\"mine.a\"} 50\n");
    cluster
}

/// Everything that there can be besides: topics, groups, lag, traffic, damage, changes.
async fn and_what_is_not(cluster: &mut Cluster) {
    cluster.topic("secret.x", 5, &[("retention.ms", "1")]).await;
    cluster.topic("mine-secret", 2, &[]).await;
    cluster.group("secret-group", "secret.x", 50_000, 3).await;
    let topic_id = cluster.metadata.load_topic("secret.x").await.unwrap().unwrap().record.topic_id;
    let key = |group: &str| OffsetKey { group: group.into(), topic: "secret.x".into(), partition: 0 };
    let offset = OffsetRecord {
        offset: 1,
        leader_epoch: -1,
        metadata: "secret note".into(),
        commit_time_ms: 1_800_000_000_000,
        expires_at_ms: None,
        topic_id,
    };
    cluster
        .metadata
        .commit_offsets([(key("shared"), offset.clone()), (key("mine-blind"), offset)])
        .await
        .unwrap();
    cluster.add_metrics(
        "kafscale_partition_damaged_offsets{topic=\"secret.x\",partition=\"1\"} 7\n\
         kafscale_storage_damaged_places 2\nkafscale_storage_unreadable_objects 4\nkafscale_partitions_unserved 3\n\
         kafscale_requests_total{api=\"Produce\"} 9\nkafscale_request_errors_total{api=\"Produce\"} 1\n\
         kafscale_produce_latency_ms_sum 100\nkafscale_produce_latency_ms_count 2\n\
         kafscale_s3_latency_ms_avg 12\nkafscale_s3_error_rate 0.5\n",
    );
    cluster.set_metric("kafscale_connections", 77.0);
}

async fn change(cluster: &Cluster, entries: &[HistoryEntry], lost: &str) {
    let (keys, entries) = (cluster.metadata.keys(), entries.to_vec());
    cluster.metadata.save(&keys.history(), &HistoryRecord { entries, left_out_ms: None }).await.unwrap();
    let lost =
        LostRecord { at_ms: 1_700_000_000_000, partitions: lost.len() as u64, topic: Some(lost.into()) };
    let gone = MemberRecord {
        host: "127.0.0.1".into(),
        port: 9093,
        epoch: 1,
        started_ms: 1_700_000_000_000,
        lost: Some(lost),
        ..MemberRecord::default()
    };
    cluster.metadata.save(&keys.member(2), &gone).await.unwrap();
}

fn entry(kind: HistoryKind, name: &str, count: u64) -> HistoryEntry {
    let at_ms = now_ms() - 5_000;
    HistoryEntry {
        at_ms,
        kind,
        name: name.into(),
        count,
        detail: format!("of {HIDDEN}").repeat(usize::from(count > 1)),
    }
}

fn now_ms() -> i64 {
    use kafscale_core::clock::Clock as _;
    crate::cluster::SystemClock.now_ms()
}

/// Every way to ask, with names that are seen, that are not, and that are not there.
fn questions() -> Vec<(&'static str, Value)> {
    let tool = |name: &str, arguments: Value| ("tools/call", json!({"name": name, "arguments": arguments}));
    let mut all = vec![
        tool("cluster_status", json!({})),
        tool("cluster_metrics", json!({})),
        tool("list_topics", json!({})),
        tool("list_topics", json!({"sort": "bytes_per_s"})),
        tool("list_groups", json!({})),
        tool("list_groups", json!({"sort": "total_lag"})),
        tool("list_groups", json!({"min_partition_lag": 1})),
        tool("list_groups", json!({"stuck": true})),
        tool("recent_changes", json!({})),
        tool("recent_changes", json!({"about": "topics"})),
        tool("describe_topics", json!({"names": ["mine.c"]})),
        tool("describe_configs", json!({"topics": ["mine.c"]})),
        tool("describe_group", json!({"group_id": "mine-lag"})),
        ("prompts/get", json!({"name": "capacity_report"})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("tools/list", json!({})),
    ];
    for uri in ["cluster", "topics", "groups", "topics/mine.a", "groups/mine-lags", "groups/shared"] {
        all.push(("resources/read", json!({"uri": format!("kafscale://{uri}")})));
    }
    for prefix in ["", "m", "mine", "s"] {
        for (template, argument) in [("topics/{topic}", "topic"), ("groups/{group}", "group")] {
            let uri = format!("kafscale://{template}");
            let argument = json!({"name": argument, "value": prefix});
            all.push((
                "completion/complete",
                json!({"ref": {"type": "ref/resource", "uri": uri}, "argument": argument}),
            ));
        }
        let argument = json!({"name": "group", "value": prefix});
        all.push((
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "debug_lag"}, "argument": argument}),
        ));
    }
    for name in ["mine.a", "mine.b"] {
        all.push(tool("describe_topics", json!({"names": [name]})));
        all.push(tool("describe_configs", json!({"topics": [name]})));
        all.push(tool("list_groups", json!({"topic": name})));
    }
    for group in ["mine-lags", "mine-idle", "mine-blind", "shared"] {
        all.push(tool("describe_group", json!({"group_id": group})));
        all.push(tool("fetch_offsets", json!({"group_id": group})));
    }
    all
}

/// What names something that is not to be seen, and is therefore not there.
fn guesses() -> Vec<(&'static str, Value)> {
    let tool = |name: &str, arguments: Value| ("tools/call", json!({"name": name, "arguments": arguments}));
    let mut all = vec![
        tool("list_topics", json!({"prefix": "secret"})),
        tool("recent_changes", json!({"name": "secret.x"})),
    ];
    for topic in ["secret.x", "secret.y", "secret", "mine-secret"] {
        all.push(tool("describe_topics", json!({"names": [topic]})));
        all.push(tool("describe_topics", json!({"names": ["mine.a", topic]})));
        all.push(tool("describe_configs", json!({"topics": [topic]})));
        all.push(tool("list_groups", json!({"topic": topic})));
        all.push(tool("fetch_offsets", json!({"group_id": "shared", "topics": [topic]})));
        all.push(tool("describe_group", json!({"group_id": "shared", "topics": [topic]})));
        all.push(("resources/read", json!({"uri": format!("kafscale://topics/{topic}")})));
    }
    for group in ["secret-group", "secret-grou", "secret"] {
        all.push(tool("list_groups", json!({"prefix": group})));
        all.push(tool("describe_group", json!({"group_id": group})));
        all.push(tool("fetch_offsets", json!({"group_id": group})));
        all.push(("prompts/get", json!({"name": "debug_lag", "arguments": {"group": group}})));
        all.push(("resources/read", json!({"uri": format!("kafscale://groups/{group}")})));
    }
    all
}

/// An answer without what differs from one second, and one port, to the next.
fn steady(text: &str) -> String {
    const BEFORE: [&str; 5] = ["127.0.0.1:", "age_ms\":", "age_ms\\\":", "window_s\":", "window_s\\\":"];
    let mut steady = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        steady.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && !".:".contains(c)).unwrap_or(rest.len());
        let number = &rest[..end];
        rest = &rest[end..];
        let is_time = number.len() == 8 && rest.starts_with('Z');
        let passes = number.len() >= 8 && number.bytes().all(|b| b.is_ascii_digit());
        // An address is one number with its port.
        let number = number.split_once(':').filter(|(ip, _)| *ip == "127.0.0.1").map_or(number, |(ip, _)| ip);
        let varies = is_time || passes || BEFORE.iter().any(|before| steady.ends_with(before));
        steady.push_str(if varies { "#" } else { number });
    }
    steady.push_str(rest);
    steady
}

async fn answers(client: &Client, questions: &[(&'static str, Value)]) -> Vec<String> {
    let mut answers = Vec::new();
    for (method, params) in questions {
        let answer = client.request(method, params.clone()).await.json();
        let mut text = String::new();
        write!(text, "{method} {params}: {answer}").unwrap();
        answers.push(steady(&text));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_shown_depends_on_what_is_hidden() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (less, mut more) = (what_is_seen().await, what_is_seen().await);
    and_what_is_not(&mut more).await;
    let mine = [entry(HistoryKind::TopicCreated, "mine.a", 1), entry(HistoryKind::LeadersMoved, "mine.b", 1)];
    change(&less, &mine, "mine.a").await;
    let hidden = [
        entry(HistoryKind::TopicDeleted, "secret.z", 1),
        entry(HistoryKind::TopicCreated, "mine.a", 1),
        entry(HistoryKind::LeadersMoved, "secret.x", 5),
        entry(HistoryKind::LeadersMoved, "mine.b", 40),
        entry(HistoryKind::TopicConfig, "mine-secret", 1),
        entry(HistoryKind::GroupEmptied, "secret-group", 1),
    ];
    change(&more, &hidden, "secret.x").await;
    let less = less.serve_with(|s| served(dirs[0].path(), s)).await;
    let server = more.serve_with(|s| served(dirs[1].path(), s)).await;
    let (alone, client) = (client_of(&less, "bot"), client_of(&server, "bot"));
    // Rates need a scrape before; between the two what is hidden moves, and nothing else.
    client.answer("list_topics", json!({})).await;
    for (series, value) in [
        ("kafscale_topic_received_records_total{topic=\"secret.x\"}", 1e6),
        ("kafscale_topic_sent_bytes_total{topic=\"secret.x\"}", 1e9),
        ("kafscale_requests_total{api=\"Produce\"}", 1e6),
    ] {
        more.set_metric(series, value);
    }
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let questions = questions();
    let (expected, answered) = (answers(&alone, &questions).await, answers(&client, &questions).await);
    for (expected, answer) in expected.iter().zip(&answered) {
        assert!(!answer.contains(HIDDEN), "{answer}");
        assert_eq!(expected, answer);
    }
    let guesses = guesses();
    assert_eq!(answers(&alone, &guesses).await, answers(&client, &guesses).await);
    // It is there for whoever may see it.
    let seen = answers(&client_of(&server, "ops"), &questions).await.concat();
    for name in ["secret.x", "secret-group", "mine-secret"] {
        assert!(seen.contains(name), "{name}");
    }
    let lines = std::fs::read_to_string(dirs[1].path().join("audit.jsonl")).unwrap();
    assert!(lines.contains("\"details\":{\"confined_by\":\"mine\"}"), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_the_whole_cluster_are_left_out_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = what_is_seen().await;
    and_what_is_not(&mut cluster).await;
    let server = cluster.serve_with(|s| served(dir.path(), s)).await;
    let client = client_of(&server, "bot");
    let figures = client.answer("cluster_metrics", json!({})).await;
    assert!(figures["throughput"]["messages_in_per_s"]["value"].is_number(), "{figures}");
    for figure in [
        &figures["throughput"]["produce_latency_ms"],
        &figures["admin"]["requests_per_s"],
        &figures["admin"]["errors_per_s"],
        &figures["s3"]["latency_ms"],
        &figures["brokers"]["connections"],
    ] {
        assert_eq!(figure["value"], Value::Null, "{figures}");
        assert_eq!(figure["reason"], "this figure is of the whole cluster, and you see a part of it");
    }
    let status = client.answer("cluster_status", json!({})).await;
    assert_eq!(status["counts"], json!({"brokers": 1, "topics": 2, "partitions": 4, "groups": 4}));
    // How long a listing took, and since when changes are known, depends on all that there is.
    assert_eq!(status["metadata_store"], json!({"state": "healthy"}));
    change(&cluster, &[entry(HistoryKind::TopicCreated, "mine.a", 1)], "mine.a").await;
    let changes = client.answer("recent_changes", json!({})).await;
    assert_eq!((changes["rows"].as_array().unwrap().len(), &changes["known_since"]), (1, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_no_rule_means_sees_no_topic_and_no_group() {
    let dir = tempfile::tempdir().unwrap();
    let server = what_is_seen().await.serve_with(|s| served(dir.path(), s)).await;
    let client = client_of(&server, "stranger");
    let status = client.answer("cluster_status", json!({})).await;
    assert_eq!(status["counts"], json!({"brokers": 1, "topics": 0, "partitions": 0, "groups": 0}));
    assert_eq!(client.answer("list_groups", json!({})).await["scanned"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_token_decides_what_is_seen() {
    let issuer = Issuer::new().await;
    let (dir, url) = (tempfile::tempdir().unwrap(), issuer.url.clone());
    let settings = |s: &mut kafscale_observe::ObserveSettings| {
        served(dir.path(), s);
        s.edge.identity.oidc_issuer = Some(url);
        s.edge.identity.public_url = Some(AUDIENCE.into());
    };
    let server = what_is_seen().await.serve_with(settings).await;
    let mut client = Client::new(server.addr());
    for (groups, topics) in [(json!(["other", "payments"]), 1), (json!("payments"), 1), (json!(["other"]), 0)]
    {
        let mut claims = issuer.claims();
        claims["groups"] = groups;
        client.token = Some(issuer.sign(&claims));
        assert_eq!(client.answer("list_topics", json!({})).await["matched"], topics);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_changes_of_what_is_seen_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = what_is_seen().await;
    let server = cluster.serve_with(|s| served(dir.path(), s)).await;
    let client = client_of(&server, "bot");
    let all = ["cluster", "topics", "groups", "topics/mine.a", "topics/secret.x", "groups/secret-group"];
    let uris: Vec<String> = all.iter().map(|path| format!("kafscale://{path}")).collect();
    let mut stream = client.listen(json!({"resourceSubscriptions": uris})).await;
    assert_eq!(stream.next().await.unwrap()["method"], "notifications/subscriptions/acknowledged");
    and_what_is_not(&mut cluster).await;
    let told = tokio::time::timeout(Duration::from_millis(2_500), stream.next()).await;
    assert!(told.is_err(), "{told:?}");
    cluster.topic("mine.new", 1, &[]).await;
    let mut told = Vec::new();
    while let Ok(Some(update)) = tokio::time::timeout(Duration::from_millis(2_500), stream.next()).await {
        told.push(update["params"]["uri"].as_str().unwrap().to_owned());
    }
    told.sort();
    told.dedup();
    assert_eq!(told, ["kafscale://cluster", "kafscale://topics"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_policy_holds_at_once_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = what_is_seen().await.serve_with(|s| served(dir.path(), s)).await;
    let (ops, bot) = (client_of(&server, "ops"), client_of(&server, "bot"));
    let matched = async |client: &Client| client.answer("list_topics", json!({})).await["matched"].clone();
    let mut stream = ops.listen(json!({"resourceSubscriptions": ["kafscale://topics"]})).await;
    stream.next().await.unwrap();
    assert_eq!((matched(&ops).await, matched(&bot).await), (json!(2), json!(2)));
    std::fs::write(dir.path().join("policy"), RULES.replace("\"mine.*\"", "\"mine.b\"")).unwrap();
    // A stream that began under other rules ends; its client comes back.
    assert_eq!(stream.next().await.unwrap()["result"]["resultType"], "complete");
    assert_eq!((matched(&ops).await, matched(&bot).await), (json!(2), json!(1)));
    std::fs::write(dir.path().join("policy"), RULES.replace("topics", "topic")).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((matched(&ops).await, matched(&bot).await), (json!(2), json!(1)));
}
