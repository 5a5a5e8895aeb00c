# An agent in shell that needs only curl.
set -eu

answer=$(curl -sS --fail "$OPENAI_BASE_URL/chat/completions" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
    -d "{\"model\": \"$AGL_MODEL\", \"messages\": [{\"role\": \"user\", \"content\": \"$AGL_TASK\"}]}")
echo "$answer"

case "$answer" in
    *51*) agl reward 1 ;;
    *) agl reward 0 ;;
esac
