//! What can be told of a policy without asking Cedar: whether its scope, and what its condition begins with, are of a request.
//!
//! Most of many policies do not concern most requests. Those that say so in words that cannot fail are left out before Cedar evaluates
//! the rest; and where all that are left apply by such words alone, Cedar need not be asked.
//!
//! Invariant: what is known here is what Cedar would find. A condition that may fail is never skipped: a forbid that fails forbids. A
//! property test compares both.

use cedar_policy::{
    ActionConstraint, EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint,
};
use serde_json::Value;

use super::policies::Labels;
use super::resource::Names;
use super::subject::Subject;

/// A condition as far as it is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Guard {
    Always,
    /// Something else, which may fail.
    Opaque,
    PrincipalIs(String),
    PrincipalEq(Entity),
    PrincipalIn(Entity),
    Action(String),
    Purpose(String),
    Tool(String),
    HasTag(String),
    ResourceIs(String),
    ResourceEq(Entity),
    ResourceIn(Entity),
    ResourceLabel(String),
    Not(Box<Guard>),
    And(Box<Guard>, Box<Guard>),
    Or(Box<Guard>, Box<Guard>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entity {
    kind: String,
    name: String,
}

/// What a guard says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Truth {
    True,
    False,
    /// It depends on the resource, and cannot fail.
    Later,
    /// Cedar has to say.
    Unknown,
}

impl Guard {
    /// Of the scope of a policy, and of its one `when`.
    pub(super) fn of(policy: &Policy) -> Guard {
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any => Guard::Always,
            PrincipalConstraint::Eq(uid) => Guard::PrincipalEq(entity(&uid)),
            PrincipalConstraint::In(uid) => Guard::PrincipalIn(entity(&uid)),
            PrincipalConstraint::Is(kind) => Guard::PrincipalIs(name_of(&kind)),
            PrincipalConstraint::IsIn(kind, uid) => {
                Guard::PrincipalIs(name_of(&kind)).and(Guard::PrincipalIn(entity(&uid)))
            }
        };
        let of_action = |uid: &EntityUid| Guard::Action(uid.id().unescaped().to_owned());
        let action = match policy.action_constraint() {
            ActionConstraint::Any => Guard::Always,
            ActionConstraint::Eq(uid) => of_action(&uid),
            ActionConstraint::In(list) => any(list.iter().map(of_action)),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any => Guard::Always,
            ResourceConstraint::Eq(uid) => Guard::ResourceEq(entity(&uid)),
            ResourceConstraint::In(uid) => Guard::ResourceIn(entity(&uid)),
            ResourceConstraint::Is(kind) => Guard::ResourceIs(name_of(&kind)),
            ResourceConstraint::IsIn(kind, uid) => {
                Guard::ResourceIs(name_of(&kind)).and(Guard::ResourceIn(entity(&uid)))
            }
        };
        principal.and(action).and(resource).and(condition(policy))
    }

    fn and(self, other: Guard) -> Guard {
        match (self, other) {
            (Guard::Always, guard) | (guard, Guard::Always) => guard,
            (one, other) => Guard::And(Box::new(one), Box::new(other)),
        }
    }

    /// Without a resource: of any.
    pub(super) fn holds(&self, subject: &Subject, resource: Option<(&Names, &Labels<'_>)>) -> Truth {
        let known = |truth: bool| if truth { Truth::True } else { Truth::False };
        let of_resource = |of: &dyn Fn(&Names, &Labels<'_>) -> bool| {
            resource.map_or(Truth::Later, |(names, labels)| known(of(names, labels)))
        };
        match self {
            Guard::Always => Truth::True,
            Guard::Opaque => Truth::Unknown,
            Guard::PrincipalIs(kind) => known(kind == subject.kind.name()),
            Guard::PrincipalEq(entity) => known(entity.is(subject.kind.name(), &subject.name)),
            Guard::PrincipalIn(entity) => known(
                entity.is(subject.kind.name(), &subject.name)
                    || (entity.kind == "Group" && subject.groups.contains(&entity.name)),
            ),
            Guard::Action(name) => known(name == subject.action.name()),
            Guard::Purpose(text) => known(*text == subject.purpose),
            Guard::Tool(text) => known(*text == subject.tool),
            Guard::HasTag(name) => known(subject.has_tag(name)),
            Guard::ResourceIs(kind) => of_resource(&|names, _| names.own().0 == kind),
            Guard::ResourceEq(entity) => of_resource(&|names, _| entity.is(names.own().0, names.own().1)),
            Guard::ResourceIn(entity) => of_resource(&|names, _| names.is_in(&entity.kind, &entity.name)),
            Guard::ResourceLabel(label) => {
                of_resource(&|names, labels| labels.own(names.own().0).contains(label))
            }
            Guard::Not(guard) => match guard.holds(subject, resource) {
                Truth::True => Truth::False,
                Truth::False => Truth::True,
                truth @ (Truth::Later | Truth::Unknown) => truth,
            },
            // As Cedar does it: from the left, and no further than needed.
            Guard::And(one, other) => match one.holds(subject, resource) {
                truth @ (Truth::False | Truth::Unknown) => truth,
                Truth::True => other.holds(subject, resource),
                Truth::Later => match other.holds(subject, resource) {
                    Truth::True => Truth::Later,
                    truth @ (Truth::False | Truth::Later | Truth::Unknown) => truth,
                },
            },
            Guard::Or(one, other) => match one.holds(subject, resource) {
                truth @ (Truth::True | Truth::Unknown) => truth,
                Truth::False => other.holds(subject, resource),
                Truth::Later => match other.holds(subject, resource) {
                    Truth::False => Truth::Later,
                    truth @ (Truth::True | Truth::Later | Truth::Unknown) => truth,
                },
            },
        }
    }
}

impl Entity {
    fn is(&self, kind: &str, name: &str) -> bool {
        self.kind == kind && self.name == name
    }
}

fn name_of(kind: &EntityTypeName) -> String {
    kind.basename().to_owned()
}

fn entity(uid: &EntityUid) -> Entity {
    Entity { kind: name_of(uid.type_name()), name: uid.id().unescaped().to_owned() }
}

/// One of them. Of none: never.
fn any(guards: impl IntoIterator<Item = Guard>) -> Guard {
    let all = guards.into_iter().reduce(|one, other| Guard::Or(Box::new(one), Box::new(other)));
    all.unwrap_or_else(|| Guard::Not(Box::new(Guard::Always)))
}

/// Of a policy with one `when`. Of several conditions, any may be evaluated first.
fn condition(policy: &Policy) -> Guard {
    let Ok(json) = policy.to_json() else { return Guard::Opaque };
    match json.get("conditions").and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) | None => Guard::Always,
        Some([one]) if one.get("kind").and_then(Value::as_str) == Some("when") => {
            one.get("body").map_or(Guard::Opaque, guard_of)
        }
        Some(_) => Guard::Opaque,
    }
}

fn guard_of(expression: &Value) -> Guard {
    let one = |expression: &Value| {
        let (operator, operands) = expression.as_object()?.iter().next()?;
        let side = |name: &str| operands.get(name);
        let both = || Some((Box::new(guard_of(side("left")?)), Box::new(guard_of(side("right")?))));
        match operator.as_str() {
            "&&" => both().map(|(one, other)| Guard::And(one, other)),
            "||" => both().map(|(one, other)| Guard::Or(one, other)),
            "!" => Some(Guard::Not(Box::new(guard_of(side("arg")?)))),
            "==" => {
                equality(side("left")?, side("right")?).or_else(|| equality(side("right")?, side("left")?))
            }
            "!=" => {
                let equal = equality(side("left")?, side("right")?);
                let equal = equal.or_else(|| equality(side("right")?, side("left")?))?;
                Some(Guard::Not(Box::new(equal)))
            }
            "in" => membership(variable(side("left")?)?, side("right")?),
            "is" => {
                let kind = side("entity_type")?.as_str()?.to_owned();
                let is_in = side("in").is_some();
                match variable(side("left")?)? {
                    "principal" if !is_in => Some(Guard::PrincipalIs(kind)),
                    "resource" if !is_in => Some(Guard::ResourceIs(kind)),
                    _ => None,
                }
            }
            "contains" if attribute(side("left")?)? == ("resource", "labels") => {
                Some(Guard::ResourceLabel(text(side("right")?)?))
            }
            "hasTag" if variable(side("left")?)? == "principal" => Some(Guard::HasTag(text(side("right")?)?)),
            _ => None,
        }
    };
    one(expression).unwrap_or(Guard::Opaque)
}

fn equality(one: &Value, other: &Value) -> Option<Guard> {
    if let Some(variable) = variable(one) {
        let entity = literal(other)?;
        return match variable {
            "principal" => Some(Guard::PrincipalEq(entity)),
            "resource" => Some(Guard::ResourceEq(entity)),
            "action" => Some(Guard::Action(entity.name)),
            _ => None,
        };
    }
    match attribute(one)? {
        ("context", "purpose") => Some(Guard::Purpose(text(other)?)),
        ("context", "tool") => Some(Guard::Tool(text(other)?)),
        _ => None,
    }
}

fn membership(variable: &str, of: &Value) -> Option<Guard> {
    let one = |of: &Value| {
        let entity = literal(of)?;
        match variable {
            "principal" => Some(Guard::PrincipalIn(entity)),
            "resource" => Some(Guard::ResourceIn(entity)),
            "action" => Some(Guard::Action(entity.name)),
            _ => None,
        }
    };
    match of.get("Set").and_then(Value::as_array) {
        Some(list) => Some(any(list.iter().map(one).collect::<Option<Vec<_>>>()?)),
        None => one(of),
    }
}

fn variable(expression: &Value) -> Option<&str> {
    expression.get("Var")?.as_str()
}

/// The attribute of a variable.
fn attribute(expression: &Value) -> Option<(&str, &str)> {
    let access = expression.get(".")?;
    Some((variable(access.get("left")?)?, access.get("attr")?.as_str()?))
}

fn text(expression: &Value) -> Option<String> {
    expression.get("Value")?.as_str().map(str::to_owned)
}

fn literal(expression: &Value) -> Option<Entity> {
    let value = expression.get("Value")?;
    let uid = value.get("__entity").unwrap_or(value);
    let text = |name: &str| uid.get(name)?.as_str().map(str::to_owned);
    Some(Entity { kind: text("type")?, name: text("id")? })
}
