// Every route asked by the stock `openai` package, whole and streamed.
// usage: npm install openai && node openai_client.mjs ["a question"]
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.OPENBOOK_URL ?? "http://127.0.0.1:8080"}/v1`,
  apiKey: process.env.OPENBOOK_API_KEY ?? "none",
});
const question = process.argv[2] ?? "When was service back after the flood?";
const messages = [{ role: "user", content: question }];

for await (const route of client.models.list()) {
  const reply = await client.chat.completions.create({ model: route.id, messages });
  const { content, annotations } = reply.choices[0].message;
  console.log(`${route.id}: ${content} (${reply.usage.total_tokens} tokens)`);
  for (const { url_citation } of annotations ?? []) {
    console.log(`  from ${url_citation.title}: ${url_citation.url}`);
  }

  process.stdout.write("  streamed: ");
  const stream = await client.chat.completions.create({ model: route.id, messages, stream: true });
  for await (const chunk of stream) {
    process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
  }
  console.log();
}
