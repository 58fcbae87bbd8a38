//! `cluster_status`: is the cluster well, and if not, where to look next.

use kafscale_meta::records::BrokerRecord;
use rmcp::schemars::JsonSchema;
use serde::Serialize;

use super::Tool;
use kafscale_core::utc;
use crate::answer::{ToolError, names};
use crate::view::metrics::{Metrics, Scraped};
use crate::view::scrape::Scrape;
use crate::view::sight::View;
use crate::view::{self, Answer as Viewed, Brokers, Lags, Topic, Topics, lag};

/// Brokers that are listed; the rest is counted.
const MAX_BROKERS: usize = 30;
/// Brokers that are gone and get a warning each.
const MAX_MISSING: usize = 5;
/// A partition this far behind is worth a warning.
const NOTABLE_LAG: i64 = 10_000;
const MAX_TEXT_CHARS: usize = 200;

pub struct ClusterStatus;

#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub struct Args {}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
pub struct Answer {
    observed_at: String,
    /// One line.
    health: String,
    cluster_id: Option<String>,
    /// Null: unknown.
    counts: Counts,
    brokers: Vec<Broker>,
    object_store: Component,
    metadata_store: Component,
    warnings: Vec<Warning>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Counts {
    brokers: Option<usize>,
    topics: Option<usize>,
    partitions: Option<i64>,
    groups: Option<usize>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Broker {
    id: Option<i32>,
    /// Null: unknown.
    address: Option<String>,
    controller: Option<bool>,
    version: Option<String>,
    up_since: Option<String>,
    /// ok, or why its metrics cannot be read.
    metrics: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Component {
    /// healthy, degraded, unavailable or unknown.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Warning {
    problem: String,
    /// What to look at.
    next: String,
}

impl Tool for ClusterStatus {
    const NAME: &'static str = "cluster_status";
    const TITLE: &'static str = "Cluster status";
    const DESCRIPTION: &'static str = "Start here. One-line health, counts of brokers, topics, partitions and groups, state of \
         brokers, object store and metadata store, and warnings with what to look at next.";
    type Args = Args;
    type Answer = Answer;

    async fn answer(view: &View, _: Args) -> Result<Answer, ToolError> {
        let (brokers, topics, groups, metrics, lags) =
            tokio::join!(view.brokers(), view.topics(), view.groups(), view.metrics(), view.lags());
        let mut warnings = Vec::new();
        let metadata_store = metadata_store(&brokers, &mut warnings);
        let object_store = object_store(&metrics.value, &mut warnings);
        if let Ok(brokers) = &brokers {
            missing_warnings(&brokers.value, &mut warnings);
        }
        let known = brokers.as_ref().ok().zip(topics.as_ref().ok());
        let known = known.map(|(brokers, topics)| (&brokers.value, &topics.value));
        broker_warnings(&metrics.value, known, &mut warnings);
        damage_warning(&metrics.value, &mut warnings);
        unreadable_warning(&metrics.value, &mut warnings);
        segments_warning(&metrics.value, &mut warnings);
        unserved_warning(&metrics.value, &mut warnings);
        connections_warning(&metrics.value, &mut warnings);
        if let Some((brokers, topics)) = known {
            leader_warnings(&metrics.value, brokers, topics, &mut warnings);
        }
        if let Ok(lags) = &lags {
            group_warnings(view, lags, &mut warnings);
        }
        let counts = Counts {
            brokers: brokers.as_ref().ok().map(|b| b.value.by_id.len()),
            topics: topics.as_ref().ok().map(|t| t.value.by_name.len()),
            partitions: topics.as_ref().ok().map(|t| t.value.partitions),
            groups: groups.as_ref().ok().map(|g| g.value.by_id.len()),
        };
        Ok(Answer {
            observed_at: utc::seconds(brokers.as_ref().map_or(metrics.at_ms, |b| b.at_ms.min(metrics.at_ms))),
            health: health(&counts, &warnings),
            cluster_id: brokers.as_ref().ok().and_then(|b| b.value.cluster.as_ref()).map(|c| text(&c.cluster_id)),
            counts,
            brokers: listed(view, &brokers, &metrics.value),
            object_store,
            metadata_store,
            warnings,
        })
    }
}

fn partitions(count: u64) -> String {
    if count == 1 { "1 partition".to_owned() } else { format!("{count} partitions") }
}

fn text(value: &str) -> String {
    names::text(value, MAX_TEXT_CHARS)
}

fn health(counts: &Counts, warnings: &[Warning]) -> String {
    let count = |n: Option<i64>, what: &str| match n {
        Some(n) => format!("{n} {what}"),
        None => format!("unknown {what}"),
    };
    let size = |n: Option<usize>| n.and_then(|n| i64::try_from(n).ok());
    let of = format!(
        "{}, {}, {}, {}",
        count(size(counts.brokers), "brokers"),
        count(size(counts.topics), "topics"),
        count(counts.partitions, "partitions"),
        count(size(counts.groups), "groups")
    );
    match warnings {
        [] => format!("healthy: {of}"),
        [one] => format!("needs attention: {} ({of})", one.problem),
        [one, rest @ ..] => format!("needs attention: {} and {} more warnings ({of})", one.problem, rest.len()),
    }
}

/// Every answer of `brokers` was read from the store itself, at most a second ago.
fn metadata_store(brokers: &Viewed<Brokers>, warnings: &mut Vec<Warning>) -> Component {
    match brokers {
        Ok(brokers) => {
            let detail = brokers.value.took.map(|took| format!("read in {:.1} ms", took.as_secs_f64() * 1000.0));
            Component { state: "healthy", detail }
        }
        Err(why) => {
            let next = "the metadata store and the network to it; topics and groups are unknown until it answers";
            warnings.push(Warning { problem: text(&why.to_string()), next: next.to_owned() });
            Component { state: "unavailable", detail: Some(text(&why.to_string())) }
        }
    }
}

fn object_store(metrics: &Metrics, warnings: &mut Vec<Warning>) -> Component {
    match metrics.object_store() {
        Ok(state) => {
            if state != "healthy" {
                let problem = format!("the object store is {state}");
                warnings.push(Warning { problem, next: "cluster_metrics with sections [\"s3\"]".to_owned() });
            }
            let (asked, told) = (metrics.brokers.len(), metrics.scrapes().count());
            let detail = match told < asked {
                true => Some(format!("as {told} of {asked} brokers see it")),
                false => metrics.store().map(|store| text(&store)),
            };
            Component { state, detail }
        }
        Err(why) => {
            let before = metrics.object_store_before.map_or(String::new(), |known| {
                format!("; last known: {} at {}", known.state, utc::seconds(known.at_ms))
            });
            Component { state: "unknown", detail: Some(text(&why) + &before) }
        }
    }
}

/// Brokers that vanished: who, since when, and what they led.
fn missing_warnings(brokers: &Brokers, warnings: &mut Vec<Warning>) {
    for (id, member) in brokers.missing.iter().take(MAX_MISSING) {
        let address = text(&format!("{}:{}", member.host, member.port));
        let since = member.lost.as_ref().map_or_else(
            || {
                let alive_ms = member.alive_ms.unwrap_or(member.started_ms);
                format!("it was last known to live at {} and is not registered any more", utc::seconds(alive_ms))
            },
            |lost| {
                let of = lost.topic.as_deref().map(|topic| format!(", such as of topic {:?}", names::shown(topic)));
                let of = of.unwrap_or_default();
                format!("since {}; it led {}{of}", utc::seconds(lost.at_ms), partitions(lost.partitions))
            },
        );
        warnings.push(Warning {
            problem: format!("broker {id} ({address}) is gone without a planned stop: {since}"),
            next: format!("start it again, or, if it is to stay away: kafka-cluster.sh unregister --id {id}"),
        });
    }
    if let more @ 1.. = brokers.missing.len().saturating_sub(MAX_MISSING) {
        let next = "the hosts that they ran on".to_owned();
        warnings.push(Warning { problem: format!("{more} more brokers are gone without a planned stop"), next });
    }
}

fn broker_warnings(metrics: &Metrics, known: Option<(&Brokers, &Topics)>, warnings: &mut Vec<Warning>) {
    if let Some(why) = &metrics.no_brokers {
        let next = "start a broker, or wait until the metadata store answers".to_owned();
        warnings.push(Warning { problem: format!("no broker's metrics can be read: {why}"), next });
        return;
    }
    let failed: Vec<_> = metrics.brokers.iter().filter(|b| b.outcome.is_err()).collect();
    if let Some((broker, Err(why))) = failed.first().map(|b| (b, b.outcome.as_ref())) {
        let more = if failed.len() > 1 { format!(" (and {} more brokers)", failed.len() - 1) } else { String::new() };
        let problem = text(&format!("the metrics of broker {} cannot be read: {why}{more}", broker.address));
        let next = "whether the broker runs; lag and rates of what it serves are unknown".to_owned();
        warnings.push(Warning { problem, next });
    }
    if let Some((brokers, topics)) = known {
        refused_warning(metrics, brokers, topics, warnings);
    }
}

/// Brokers that are registered, and whose hosts say that nobody listens where they registered their metrics: as a rule their processes are
/// gone and their leases run on. Where no answer comes at all, nothing is known before the lease has run out.
fn refused_warning(metrics: &Metrics, brokers: &Brokers, topics: &Topics, warnings: &mut Vec<Warning>) {
    let refused = |broker: &Scraped| broker.outcome.as_ref().is_err_and(|why| why.refused);
    let ids: Vec<i32> = metrics.brokers.iter().filter(|b| refused(b)).filter_map(|b| b.node_id).collect();
    let Some(first) = ids.first() else { return };
    let led = |topic: &Topic| ids.iter().map(|id| topic.led_by(*id, brokers)).sum::<usize>();
    let led: Vec<_> = topics.by_name.iter().map(|(name, topic)| (name, led(topic))).filter(|(_, led)| *led > 0).collect();
    let leads = match led.first() {
        Some((topic, _)) => {
            let count = led.iter().map(|(_, led)| *led as u64).sum();
            format!("{}, such as of topic {:?}", partitions(count), names::shown(topic))
        }
        None => "no partition".to_owned(),
    };
    let who = if ids.len() > 1 { format!("it and {} more such brokers lead", ids.len() - 1) } else { "it leads".to_owned() };
    let noted = brokers.alive_ms.get(first).map(|at_ms| format!("; it last noted that it lives at {}", utc::seconds(*at_ms)));
    warnings.push(Warning {
        problem: format!(
            "broker {first} refuses connections to its metrics, and its lease has not run out: its process is gone, unless that address is \
             not for this server{}; {who} {leads}",
            noted.unwrap_or_default()
        ),
        next: "start it again; what it led gets another leader when its lease has run out, in seconds".to_owned(),
    });
}

/// What brokers have found of damaged data.
fn damage_warning(metrics: &Metrics, warnings: &mut Vec<Warning>) {
    let sum = |name| metrics.scrapes().filter_map(|(_, scrape, _)| scrape.sum(name)).sum::<f64>();
    let places = sum(view::names::DAMAGED_PLACES);
    let offsets = sum(view::names::DAMAGED_OFFSETS);
    if places <= 0.0 && offsets <= 0.0 {
        return;
    }
    // Which topic a place is of is not said, so that not everybody sees places.
    let places = if places > 0.0 { format!(" in {places} places") } else { String::new() };
    let mut labels = metrics.scrapes().filter_map(|(_, scrape, _)| scrape.series(view::names::DAMAGED_OFFSETS).first());
    let example = labels.next().and_then(|(labels, _)| {
        let label = |name| labels.iter().find(|(l, _)| l == name).map(|(_, value)| value.as_str());
        Some(format!(", in {:?} partition {} for one", names::shown(label("topic")?), label("partition")?))
    });
    let example = example.unwrap_or_default();
    warnings.push(Warning {
        problem: text(&format!("stored data is damaged{places}, {offsets} offsets cannot be read{example}")),
        next: "the brokers' logs, which name objects and offsets; `kafscale verify` checks the whole store".to_owned(),
    });
}

/// What brokers were asked for and the store did not give.
fn unreadable_warning(metrics: &Metrics, warnings: &mut Vec<Warning>) {
    let objects = metrics.scrapes().filter_map(|(_, scrape, _)| scrape.sum(view::names::UNREADABLE_OBJECTS)).sum::<f64>();
    if objects > 0.0 {
        warnings.push(Warning {
            problem: format!("cannot be read at the moment: {objects} stored objects, whose records consumers wait for"),
            next: "/readyz of the brokers, and their logs, which name objects and errors: permissions, keys, the store".to_owned(),
        });
    }
}

/// What brokers cannot move from the write-ahead log to segments.
fn segments_warning(metrics: &Metrics, warnings: &mut Vec<Warning>) {
    let name = view::names::PARTITIONS_WITHOUT_SEGMENTS;
    let partitions = metrics.scrapes().filter_map(|(_, scrape, _)| scrape.sum(name)).sum::<f64>();
    if partitions > 0.0 {
        warnings.push(Warning {
            problem: format!("segments of {partitions} partitions cannot be written: the write-ahead log grows until no records are taken"),
            next: "/readyz of the brokers, and their logs, which say why: free space, permissions, the store".to_owned(),
        });
    }
}

/// What brokers own and cannot serve.
fn unserved_warning(metrics: &Metrics, warnings: &mut Vec<Warning>) {
    let unserved = metrics.scrapes().filter_map(|(_, scrape, _)| scrape.sum(view::names::UNSERVED_PARTITIONS)).sum::<f64>();
    if unserved > 0.0 {
        warnings.push(Warning {
            problem: format!("{unserved} partitions cannot be served by their brokers, or take no records"),
            next: "/readyz of the brokers, and their logs, which say why".to_owned(),
        });
    }
}

/// Brokers on which only addresses without a connection still get one, or nobody.
fn connections_warning(metrics: &Metrics, warnings: &mut Vec<Warning>) {
    let taken = |scrape: &Scrape| {
        let figure = |name| scrape.sum(name);
        let (open, limit) = (figure(view::names::CONNECTIONS)?, figure(view::names::CONNECTIONS_LIMIT)?);
        let reserved = figure(view::names::CONNECTIONS_RESERVED).unwrap_or(0.0);
        (limit - open <= reserved).then_some((open, limit))
    };
    let full: Vec<_> = metrics.scrapes().filter_map(|(broker, scrape, _)| Some((broker, taken(scrape)?))).collect();
    let [(broker, (open, limit)), rest @ ..] = &full[..] else { return };
    let broker = text(&broker.address);
    let others = match rest.len() {
        0 => String::new(),
        more => format!(", and nearly all of {more} more brokers"),
    };
    warnings.push(Warning {
        problem: format!("{open} of {limit} connections of broker {broker} are taken{others}: new clients may wait"),
        next: "the log of the broker, clients that open too many connections, --max-connections and --max-connections-per-ip".to_owned(),
    });
}

fn leader_warnings(metrics: &Metrics, brokers: &Brokers, topics: &Topics, warnings: &mut Vec<Warning>) {
    let mut without = 0;
    let mut example = None;
    for (name, topic) in &topics.by_name {
        let missing = (0..topic.record.partitions).filter(|p| !topic.is_led(*p, brokers)).count();
        without += missing;
        if missing > 0 && example.is_none() {
            example = Some(name);
        }
    }
    // Brokers see sooner than leases tell that one of them is gone.
    let seen = metrics.scrapes().filter_map(|(_, scrape, _)| scrape.sum(view::names::LEADERLESS_PARTITIONS)).fold(0.0, f64::max);
    if let Some(topic) = example {
        let topic = names::shown(topic);
        warnings.push(Warning {
            problem: format!("{without} partitions have no live leader"),
            next: format!("describe_topics with names [{topic:?}] and only_unhealthy true"),
        });
    } else if seen > 0.0 {
        warnings.push(Warning {
            problem: format!("{seen} partitions have no live leader, as brokers see it: the broker is gone, and its lease runs on"),
            next: "cluster_status again in some seconds: they get another leader when the lease has run out".to_owned(),
        });
    }
}

fn lag_warning<'a>(mut lagging: impl Iterator<Item = &'a str>, warnings: &mut Vec<Warning>) {
    let Some(first) = lagging.next() else { return };
    let more = lagging.count();
    let lag = if more > 0 { format!(" and {more} more groups lag") } else { " lags".to_owned() };
    warnings.push(Warning {
        problem: format!("group {:?}{lag} by more than {NOTABLE_LAG} on a partition", names::shown(first)),
        next: format!("list_groups with min_partition_lag {}", NOTABLE_LAG + 1),
    });
}

/// The registered brokers; while the metadata store is down, those whose metrics were asked for, with what was known of them before.
/// Who is the controller can change meanwhile.
fn listed(view: &View, brokers: &Viewed<Brokers>, metrics: &Metrics) -> Vec<Broker> {
    let scraped = |id: i32| {
        let broker = metrics.brokers.iter().find(|b| b.node_id == Some(id))?;
        Some(broker.outcome.as_ref().map_or_else(|why| text(&why.to_string()), |_| "ok".to_owned()))
    };
    let registered = |id: i32, broker: &BrokerRecord, controller: Option<bool>| Broker {
        id: Some(id),
        address: Some(text(&format!("{}:{}", broker.host, broker.port))),
        controller,
        version: Some(text(&broker.version)),
        up_since: Some(utc::seconds(broker.started_ms)),
        metrics: scraped(id).unwrap_or_else(|| "read from the configured address".to_owned()),
    };
    let before = view.brokers_before();
    match (brokers, &before) {
        (Ok(brokers), _) => {
            let controller = |id| Some(brokers.value.controller == Some(id));
            let all = brokers.value.by_id.iter().take(MAX_BROKERS);
            all.map(|(id, broker)| registered(*id, broker, controller(*id))).collect()
        }
        (Err(_), Some(before)) => {
            let all = before.value.by_id.iter().take(MAX_BROKERS);
            all.map(|(id, broker)| registered(*id, broker, None)).collect()
        }
        (Err(_), None) => {
            let scraped = metrics.brokers.iter().take(MAX_BROKERS);
            scraped
                .map(|broker| Broker {
                    id: broker.node_id,
                    address: None,
                    controller: None,
                    version: None,
                    up_since: None,
                    metrics: match &broker.outcome {
                        Ok(_) => text(&format!("ok, at {}", broker.address)),
                        Err(why) => text(&why.to_string()),
                    },
                })
                .collect()
        }
    }
}

/// Groups that lag far, that find records gone at the start or the end of a log, and that do not get on.
fn group_warnings(view: &View, lags: &Lags, warnings: &mut Vec<Warning>) {
    let lagging = lags.by_group.iter().filter(|(_, lag)| lag.max > Some(NOTABLE_LAG));
    lag_warning(lagging.map(|(id, _)| id.as_str()), warnings);
    let has_members = |id: &str| lags.groups.value.by_id.get(id).is_some_and(|group| !lag::members(group).is_empty());
    let others = |more: usize| if more > 0 { format!(" and {more} more groups") } else { String::new() };
    let mut missed = lags.by_group.iter().filter(|(id, lag)| lag.missed > 0 && has_members(id));
    if let Some((id, lag)) = missed.next() {
        let id = names::shown(id);
        let more = others(missed.count());
        let problem = format!("group {id:?} missed {} records that were deleted before it read them{more}", lag.missed);
        warnings.push(Warning { problem, next: format!("describe_group with group_id {id:?}") });
    }
    let mut beyond = lags.by_group.iter().filter(|(_, lag)| lag.beyond_end > 0);
    if let Some((id, lag)) = beyond.next() {
        let id = names::shown(id);
        let more = others(beyond.count());
        let problem = format!(
            "group {id:?} has committed beyond the end of {} partitions{more}: records were lost, an older log was restored, or a client committed \
             offsets that never were",
            lag.beyond_end
        );
        warnings.push(Warning { problem, next: format!("describe_group with group_id {id:?}: committed against end") });
    }
    let mut stuck = lags.by_group.iter().filter_map(|(id, lag)| {
        let stuck = view.trend(id, lag)?.stuck?;
        has_members(id).then_some((id, stuck.as_secs()))
    });
    if let Some((id, seconds)) = stuck.next() {
        let id = names::shown(id);
        let more = others(stuck.count());
        let problem = format!("group {id:?} lags and has committed nothing new for {seconds} s{more}");
        warnings.push(Warning { problem, next: "list_groups with stuck true".to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn connections_that_are_nearly_all_taken_need_attention() {
        let broker = |open: u32| {
            let text = format!(
                "kafscale_connections {open}\nkafscale_connections_limit 100\nkafscale_connections_reserved 7\n"
            );
            let outcome = Ok((Arc::new(Scrape::parse(&text).unwrap()), None));
            Scraped { node_id: None, address: format!("b{open}"), outcome }
        };
        for (open, expected) in [
            (&[92, 0][..], None),
            (&[93][..], Some("93 of 100 connections of broker b93 are taken: new clients")),
            (&[0, 100, 99][..], Some("100 of 100 connections of broker b100 are taken, and nearly all of 1 more")),
        ] {
            let brokers = open.iter().copied().map(broker).collect();
            let mut warnings = Vec::new();
            connections_warning(&Metrics { brokers, ..Metrics::default() }, &mut warnings);
            let problem = warnings.first().map(|warning| warning.problem.as_str());
            assert_eq!(problem.map(|text| &text[..expected.map_or(0, str::len)]), expected);
        }
    }

    #[test]
    fn one_group_lags_and_several_lag() {
        for (groups, expected) in [
            (&[][..], None),
            (&["analytics"][..], Some("group \"analytics\" lags by more than")),
            (&["a", "b", "c"][..], Some("group \"a\" and 2 more groups lag by more than")),
        ] {
            let mut warnings = Vec::new();
            lag_warning(groups.iter().copied(), &mut warnings);
            let problem = warnings.first().map(|warning| warning.problem.as_str());
            assert_eq!(problem.map(|text| &text[..expected.map_or(0, str::len)]), expected);
        }
    }
}
