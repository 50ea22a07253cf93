#!/usr/bin/env bash
# A question to every endpoint that answers one. usage: ./curl.sh ["a question"]
set -euo pipefail

url=${OPENBOOK_URL:-http://127.0.0.1:8080}
route=${OPENBOOK_ROUTE:-hybrid}
question=$(printf '%s' "${1:-When was service back after the flood?}" | sed 's/[\\"]/\\&/g')

post() {
    curl --silent --show-error --fail-with-body --no-buffer "$url$1" \
        -H 'Content-Type: application/json' -H "Authorization: Bearer ${OPENBOOK_API_KEY:-none}" -d "$2"
    echo
}

echo "# one route, with passages, citations, tokens and times"
post /v1/answer "{\"question\": \"$question\", \"route\": \"$route\"}"

echo "# the same, streamed"
post /v1/answer "{\"question\": \"$question\", \"route\": \"$route\", \"stream\": true}"

echo "# all routes side by side"
post /v1/compare "{\"question\": \"$question\"}"

echo "# OpenAI's chat completion; the route is the model"
post /v1/chat/completions "{\"model\": \"$route\", \"messages\": [{\"role\": \"user\", \"content\": \"$question\"}]}"

echo "# passages alone, without a model"
post /v1/index/search "{\"query\": \"$question\", \"k\": 3}"
