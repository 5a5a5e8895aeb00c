# An agent that uses only curl: it calls the model, sends a span of its own attempt, and tries to send one of another.
set -eu
post() { curl -sS --fail -H "Content-Type: application/json" "$@"; }

post "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" \
    -d "{\"model\": \"$AGL_MODEL\", \"messages\": [{\"role\": \"user\", \"content\": \"$AGL_TASK\"}]}" > /dev/null

trace=$(echo "$TRACEPARENT" | cut -d- -f2)
parent=$(echo "$TRACEPARENT" | cut -d- -f3)
attribute() { echo "{\"key\": \"agentlightning.$1\", \"value\": {\"stringValue\": \"$2\"}}"; }
send() {  # span id, name, rollout id, attempt id
    post "$OTEL_EXPORTER_OTLP_ENDPOINT/v1/traces" -H "Authorization: Bearer $AGL_TOKEN" -d "{\"resourceSpans\": [{
        \"resource\": {\"attributes\": [$(attribute rollout_id "$3"), $(attribute attempt_id "$4")]},
        \"scopeSpans\": [{\"spans\": [
            {\"traceId\": \"$trace\", \"spanId\": \"$1\", \"parentSpanId\": \"$parent\", \"name\": \"$2\"}]}]}]}"
}
send aaaaaaaaaaaaaaaa "from curl" "$AGL_ROLLOUT_ID" "$AGL_ATTEMPT_ID"
send bbbbbbbbbbbbbbbb "foreign" $OTHER
agl reward 0.5
