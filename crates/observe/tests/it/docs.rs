//! docs/mcp.md tells of the tools, resources and prompts what they tell of themselves.
//!
//! With KAFSCALE_UPDATE_DOCS set the file is written instead of checked.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::client::Client;
use crate::cluster::Cluster;

const FILE: &str = "../../docs/mcp.md";
const BEGIN: &str = "<!-- tools -->\n";
const END: &str = "<!-- end of prompts -->";

fn kind(property: &Value) -> String {
    let bounds = |min: &str, max: &str| match (property.get(min), property.get(max)) {
        (Some(min), Some(max)) => format!(" {min}–{max}"),
        (Some(min), None) => format!(" from {min}"),
        (None, Some(max)) => format!(" up to {max}"),
        (None, None) => String::new(),
    };
    match property["type"].as_str().unwrap() {
        "array" => format!("list{} of {}", bounds("minItems", "maxItems"), kind(&property["items"])),
        "integer" => format!("integer{}", bounds("minimum", "maximum")),
        "string" => match property.get("enum").and_then(Value::as_array) {
            Some(values) => {
                values.iter().map(|v| format!("`{}`", v.as_str().unwrap())).collect::<Vec<_>>().join(", ")
            }
            None => "string".to_owned(),
        },
        other => other.to_owned(),
    }
}

fn section(tool: &Value) -> String {
    let mut text =
        format!("### {}\n\n{}\n\n", tool["name"].as_str().unwrap(), tool["description"].as_str().unwrap());
    let input = &tool["inputSchema"];
    let required = input["required"].as_array().cloned().unwrap_or_default();
    for (name, property) in input["properties"].as_object().unwrap() {
        let needed = if required.contains(&json!(name)) { "required" } else { "optional" };
        let more =
            property.get("description").map(|d| format!(". {}", d.as_str().unwrap())).unwrap_or_default();
        writeln!(text, "- `{name}` ({needed}): {}{more}", kind(property)).unwrap();
    }
    let output = &tool["outputSchema"];
    let required = output["required"].as_array().unwrap();
    let fields = output["properties"].as_object().unwrap().keys();
    let fields: Vec<String> = fields
        .map(|f| if required.contains(&json!(f)) { format!("`{f}`") } else { format!("`{f}`?") })
        .collect();
    write!(text, "\nAnswers {}.\n", fields.join(", ")).unwrap();
    text
}

fn resource(resource: &Value) -> String {
    let uri = resource.get("uri").unwrap_or_else(|| &resource["uriTemplate"]);
    format!("| `{}` | {} |\n", uri.as_str().unwrap(), resource["description"].as_str().unwrap())
}

fn prompt(prompt: &Value) -> String {
    let arguments = prompt.get("arguments").and_then(Value::as_array).cloned().unwrap_or_default();
    let arguments: Vec<String> =
        arguments.iter().map(|a| format!("`{}`", a["name"].as_str().unwrap())).collect();
    let text = |key: &str| prompt[key].as_str().unwrap().to_owned();
    format!("| `{}` | {} | {} |\n", text("name"), arguments.join(", "), text("description"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_is_what_the_tools_say() {
    let server = Cluster::new().await.serve().await;
    let client = Client::new(server.addr());
    let list = async |method: &str, key: &str| -> Vec<Value> {
        client.request(method, json!({})).await.json()["result"][key].as_array().unwrap().clone()
    };
    let tools = list("tools/list", "tools").await.iter().map(section).collect::<Vec<_>>().join("\n");
    let mut resources = list("resources/list", "resources").await;
    resources.extend(list("resources/templates/list", "resourceTemplates").await);
    let resources: String = resources.iter().map(resource).collect();
    let prompts: String = list("prompts/list", "prompts").await.iter().map(prompt).collect();
    let generated = format!(
        "{tools}\n## Resources\n\n| URI | what |\n|---|---|\n{resources}\n## Prompts\n\n\
         | prompt | arguments | what |\n|---|---|---|\n{prompts}"
    );
    let text = std::fs::read_to_string(FILE).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("a start marker");
    let (committed, after) = rest.split_once(END).expect("an end marker");
    if std::env::var_os("KAFSCALE_UPDATE_DOCS").is_some() {
        std::fs::write(FILE, format!("{before}{BEGIN}{generated}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(committed, generated, "docs/mcp.md is out of date: run this test with KAFSCALE_UPDATE_DOCS=1");
}
