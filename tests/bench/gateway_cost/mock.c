/* mock: a tiny single-threaded HTTP/1.1 server that answers like an LLM engine.
 *
 *   mock --port P [--chunks N] [--delay-us D] [--first-us F]
 *
 *   POST /v1/chat/completions   OpenAI; a body with "stream": true gets SSE
 *   POST /v1/completions        OpenAI legacy; same bodies
 *   POST /v1/messages           Anthropic; a body with "stream": true gets SSE
 *   POST /v1/messages/count_tokens, /v1/embeddings
 *   GET  /v1/models, /health, /metrics, /version, ... what the routers probe
 *   GET  /report, /models, /models/ID, /models/ID/endpoint, /discovery   what cortex asks a neuron: it has
 *        mock-model (speaks both APIs) and mock-translated (harness vllm: OpenAI only, served here as well)
 *   GET  /_mock/set?chunks=N&delay_us=D&first_us=F   change the settings
 *   GET  /_mock/stats                                counters since start
 *
 * A stream is: HTTP head + role chunk, N content chunks, finish chunk, then the
 * usage chunk with [DONE]; who asks by X-Cortex-Usage is told in a comment or a header, too. The words differ from chunk to chunk (LiteLLM takes a
 * hundred equal chunks for a model gone mad). One write() a chunk. With delay-us 0 every loop turn
 * writes one chunk to each stream that can take it (round robin), so a slow
 * reader sees chunks pile up as it would behind a fast engine.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAXFD 65536
#define BODY_MAX (8u << 20)

typedef struct { char *p; size_t n; } str;

typedef struct conn {
    int fd, close_after, want_out;
    char *in; size_t inlen, incap;
    const char *out; size_t outlen, outoff;   /* bytes waiting to be written */
    char *own;                                /* freed once out is written */
    int streaming, item, chunks, kind;        /* kind: 0 OpenAI, 1 Anthropic */
    int usage;                                /* the client asked by X-Cortex-Usage */
    uint64_t due, delay; int heap;            /* index in heap, -1: none */
    int act;                                  /* index in the active list, -1 */
} conn;

static conn *conns[MAXFD];
static conn *heap[MAXFD]; static int nheap;
static conn *active[MAXFD]; static int nactive;
static int ep, g_chunks = 128; static uint64_t g_delay, g_first;
static uint64_t st_req, st_streams, st_chunks, st_conns, st_openai, st_anthropic, st_aborted;

static uint64_t now_us(void) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + t.tv_nsec / 1000;
}

/* ---- bodies ---- */
#define NWORD 32
static const char *WORDS[NWORD] = {
    " gateway", " request", " healthy", " forward", " streams", " carries", " without", " pattern",
    " between", " another", " because", " through", " balance", " cluster", " eviction", " memory",
    " loading", " answers", " writing", " reading", " station", " private", " caching", " context",
    " scaling", " failure", " tracing", " metrics", " routing", " backend", " latency", " quality" };
static str head_sse, oa_role, oa_tok[NWORD], oa_stop, oa_last, an_start, an_tok[NWORD], an_stop;
static str oa_last_usage, an_stop_usage, oa_json_usage, an_json_usage;
static str report_json, rows_json, row_json, row_translated_json, endpoint_json, discovery_json;
static str nf_json, oa_json, an_json, emb_json, models_json, info_json, tok_json, ok_json, metrics_txt;

static str mk(const char *s) { str r = { strdup(s), strlen(s) }; return r; }
static str chunked(const char *s) {
    str r; size_t n = strlen(s); r.p = malloc(n + 32);
    r.n = sprintf(r.p, "%zx\r\n%s\r\n", n, s); return r;
}
static str cat(str a, str b) {
    str r; r.n = a.n + b.n; r.p = malloc(r.n + 1);
    memcpy(r.p, a.p, a.n); memcpy(r.p + a.n, b.p, b.n); return r;
}
static str reply(const char *type, const char *body) {
    str r; size_t n = strlen(body); r.p = malloc(n + 256);
    r.n = sprintf(r.p, "HTTP/1.1 200 OK\r\nServer: mock\r\nContent-Type: %s\r\n"
                       "Content-Length: %zu\r\n\r\n%s", type, n, body);
    return r;
}

#define USAGE "{\"prompt_tokens\":42,\"completion_tokens\":128,\"cached_tokens\":0,\"queue_ms\":0.1,\"prefill_ms\":1.5," \
    "\"decode_ms\":2540.0,\"finish_reason\":\"stop\"}"
#define HEALTH "{\"status\":\"ok\",\"uptime_secs\":1.0,\"state\":\"ready\",\"activation\":{},\"version\":\"0\"," \
    "\"devices\":[{\"index\":0,\"vram_used_mb\":2,\"vram_free_mb\":998}],\"models\":[" \
    "{\"id\":\"mock-model\",\"status\":\"loaded\"},{\"id\":\"mock-translated\",\"status\":\"loaded\"}]}"
#define ROW(id, harness) "{\"id\":\"" id "\",\"harness\":\"" harness "\",\"status\":\"loaded\",\"devices\":[0]," \
    "\"vram_used_mb\":1,\"context\":131072}"
#define ROWS "[" ROW("mock-model", "torch") "," ROW("mock-translated", "vllm") "]"

#define OA(delta, fin, rest) "data: {\"id\":\"chatcmpl-2f9c1f0a7d4e4b6c8a51d0e39b7f6c42\",\"object\":" \
    "\"chat.completion.chunk\",\"created\":1760000000,\"model\":\"mock-model\",\"choices\":[" delta fin "]" rest "}\n\n"

/* the same answer with the header X-Cortex-Usage */
static str with_usage(str r) {
    const char *at = strstr(r.p, "Content-Type");
    str head = { r.p, at - r.p }, rest = { (char *)at, r.n - (at - r.p) };
    return cat(cat(head, mk("X-Cortex-Usage: " USAGE "\r\n")), rest);
}

static void init_bodies(int port) {
    head_sse = mk("HTTP/1.1 200 OK\r\nServer: mock\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                  "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n");
    oa_role = chunked(OA("{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,", "\"finish_reason\":null}", ""));
    for (int i = 0; i < NWORD; i++) {
        char b[512];
        sprintf(b, OA("{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,", "\"finish_reason\":null}", ""), WORDS[i]);
        oa_tok[i] = chunked(b);
        sprintf(b, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,"
                   "\"delta\":{\"type\":\"text_delta\",\"text\":\"%s\"}}\n\n", WORDS[i]);
        an_tok[i] = chunked(b);
    }
    oa_stop = chunked(OA("{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,", "\"finish_reason\":\"stop\",\"stop_reason\":null}", ""));
    oa_last = cat(chunked(OA("", "", ",\"usage\":{\"prompt_tokens\":42,\"completion_tokens\":128,\"total_tokens\":170}")),
                  cat(chunked("data: [DONE]\n\n"), mk("0\r\n\r\n")));
    an_start = cat(chunked("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_01mock\",\"type\":\"message\","
                  "\"role\":\"assistant\",\"model\":\"mock-model\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,"
                  "\"usage\":{\"input_tokens\":42,\"output_tokens\":1}}}\n\n"),
                  chunked("event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,"
                  "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n"));
    an_stop = cat(chunked("event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"),
              cat(chunked("event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\","
                  "\"stop_sequence\":null},\"usage\":{\"output_tokens\":128}}\n\n"),
              cat(chunked("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"), mk("0\r\n\r\n"))));
    oa_json = reply("application/json",
        "{\"id\":\"chatcmpl-2f9c1f0a7d4e4b6c8a51d0e39b7f6c42\",\"object\":\"chat.completion\",\"created\":1760000000,"
        "\"model\":\"mock-model\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"reasoning_content\":null,"
        "\"content\":\"A gateway accepts a request, picks a healthy host that already has the model in memory, forwards the body "
        "without rewriting what it does not need to rewrite, and streams the answer back as it arrives.\",\"tool_calls\":[]},"
        "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}],\"usage\":{\"prompt_tokens\":42,"
        "\"total_tokens\":85,\"completion_tokens\":43,\"prompt_tokens_details\":null},\"prompt_logprobs\":null}");
    an_json = reply("application/json",
        "{\"id\":\"msg_01mock\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"mock-model\",\"content\":[{\"type\":\"text\","
        "\"text\":\"A gateway accepts a request, picks a healthy host that already has the model in memory, forwards the body "
        "without rewriting what it does not need to rewrite, and streams the answer back as it arrives.\"}],"
        "\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{\"input_tokens\":42,\"output_tokens\":43}}");
    oa_last_usage = cat(chunked(": cortex-usage " USAGE "\n\n"), oa_last);
    an_stop_usage = cat(chunked(": cortex-usage " USAGE "\n\n"), an_stop);
    oa_json_usage = with_usage(oa_json); an_json_usage = with_usage(an_json);
    report_json = reply("application/json", "{\"health\":" HEALTH ",\"models\":" ROWS "}");
    rows_json = reply("application/json", ROWS);
    row_json = reply("application/json", ROW("mock-model", "torch"));
    row_translated_json = reply("application/json", ROW("mock-translated", "vllm"));
    char url[64]; sprintf(url, "{\"url\":\"http://127.0.0.1:%d\"}", port);
    endpoint_json = reply("application/json", url);
    discovery_json = reply("application/json", "{\"hostname\":\"mock\",\"os\":\"Linux\",\"kernel\":\"0\",\"device_kind\":\"cuda\","
        "\"devices\":[{\"index\":0,\"name\":\"mock\",\"vram_total_mb\":1000}],\"harnesses\":[\"torch\",\"vllm\"],\"version\":\"0\"}");
    emb_json = reply("application/json", "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":"
        "[0.1,0.2,0.3,0.4]}],\"model\":\"mock-model\",\"usage\":{\"prompt_tokens\":4,\"total_tokens\":4}}");
    models_json = reply("application/json", "{\"object\":\"list\",\"data\":[{\"id\":\"mock-model\",\"object\":\"model\","
        "\"created\":1760000000,\"owned_by\":\"vllm\",\"root\":\"mock-model\",\"parent\":null,\"max_model_len\":131072}]}");
    info_json = reply("application/json", "{\"version\":\"0.11.0\",\"protocol\":1,\"model_path\":\"mock-model\",\"served_model_name\":\"mock-model\","
        "\"tokenizer_path\":\"mock-model\",\"is_generation\":true,\"dp_size\":1,\"model_type\":\"qwen3\",\"max_total_num_tokens\":1000000}");
    tok_json = reply("application/json", "{\"input_tokens\":42}");
    nf_json = mk("HTTP/1.1 404 Not Found\r\nServer: mock\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n{\"detail\":\"Not Found\"}");
    ok_json = reply("application/json", HEALTH);
    metrics_txt = reply("text/plain; version=0.0.4",
        "vllm:num_requests_running{model_name=\"mock-model\"} 0\nvllm:num_requests_waiting{model_name=\"mock-model\"} 0\n"
        "vllm:gpu_cache_usage_perc{model_name=\"mock-model\"} 0.1\nvllm:kv_cache_usage_perc{model_name=\"mock-model\"} 0.1\n"
        "vllm:gpu_prefix_cache_hits_total{model_name=\"mock-model\"} 1\nvllm:gpu_prefix_cache_queries_total{model_name=\"mock-model\"} 1\n");
}

/* ---- timers (binary heap by due) and the active list (delay 0) ---- */
static void hset(int i, conn *c) { heap[i] = c; c->heap = i; }
static void hup(int i) {
    conn *c = heap[i];
    while (i && heap[(i - 1) / 2]->due > c->due) { hset(i, heap[(i - 1) / 2]); i = (i - 1) / 2; }
    hset(i, c);
}
static void hdown(int i) {
    conn *c = heap[i];
    for (;;) {
        int k = 2 * i + 1; if (k >= nheap) break;
        if (k + 1 < nheap && heap[k + 1]->due < heap[k]->due) k++;
        if (heap[k]->due >= c->due) break;
        hset(i, heap[k]); i = k;
    }
    hset(i, c);
}
static void hpush(conn *c) { nheap++; hset(nheap - 1, c); hup(nheap - 1); }
static void hdel(conn *c) {
    int i = c->heap; if (i < 0) return;
    c->heap = -1; conn *l = heap[--nheap];
    if (l != c) { hset(i, l); hup(i); hdown(l->heap); }
}
static void aadd(conn *c) { if (c->act < 0) { c->act = nactive; active[nactive++] = c; } }
static void adel(conn *c) {
    if (c->act < 0) return;
    conn *l = active[--nactive]; active[c->act] = l; l->act = c->act; c->act = -1;
}

static void want(conn *c, int out) {
    if (c->want_out == out) return;
    c->want_out = out;
    struct epoll_event e = { .events = EPOLLIN | (out ? EPOLLOUT : 0), .data.fd = c->fd };
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void drop(conn *c) {
    if (c->streaming) st_aborted++;
    hdel(c); adel(c); conns[c->fd] = NULL; close(c->fd); free(c->in); free(c->own); free(c);
}
/* 1: all written, 0: must wait for EPOLLOUT, -1: dropped */
static int flush(conn *c) {
    while (c->outoff < c->outlen) {
        ssize_t n = send(c->fd, c->out + c->outoff, c->outlen - c->outoff, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) { want(c, 1); return 0; }
            drop(c); return -1;
        }
        c->outoff += n;
    }
    want(c, 0); c->outlen = c->outoff = 0; free(c->own); c->own = NULL;
    return 1;
}
static int put(conn *c, str s) { c->out = s.p; c->outlen = s.n; c->outoff = 0; return flush(c); }

static int parse(conn *c);

/* write this stream's next item; same results as flush */
static int step(conn *c) {
    static str first_oa, first_an;
    if (!first_oa.p) { first_oa = cat(head_sse, oa_role); first_an = cat(head_sse, an_start); }
    int i = c->item++, r;
    if (i == 0) r = put(c, c->kind ? first_an : first_oa);
    else if (i <= c->chunks) { st_chunks++; r = put(c, (c->kind ? an_tok : oa_tok)[(i * 7 + c->fd) % NWORD]); }
    else if (i == c->chunks + 1 && !c->kind) r = put(c, oa_stop);
    else { c->streaming = 0; hdel(c); adel(c); r = put(c, c->kind ? (c->usage ? an_stop_usage : an_stop) : c->usage ? oa_last_usage : oa_last); }
    return r;
}
/* after an item is fully written: say when the next one goes out */
static int schedule(conn *c) {
    if (!c->streaming) {
        if (c->close_after) { drop(c); return -1; }
        return parse(c);
    }
    if (c->delay == 0) { hdel(c); aadd(c); return 1; }
    c->due += c->delay;
    if (c->heap < 0) hpush(c); else { hup(c->heap); hdown(c->heap); }
    return 1;
}

static const char *find_head(const char *h, size_t n, const char *name) {
    size_t k = strlen(name); const char *e = h + n;
    for (const char *p = h; p && p < e; ) {
        const char *l = memchr(p, '\n', e - p); if (!l) break;
        p = l + 1;
        if ((size_t)(e - p) > k && p[k] == ':' && !strncasecmp(p, name, k)) {
            p += k + 1; while (*p == ' ') p++; return p;
        }
    }
    return NULL;
}
static int is_stream(const char *b, size_t n) {
    const char *p = b, *e = b + n;
    while ((p = memmem(p, e - p, "\"stream\"", 8))) {
        p += 8; while (p < e && (*p == ' ' || *p == ':')) p++;
        if (e - p >= 4 && !memcmp(p, "true", 4)) return 1;
    }
    return 0;
}
static void consume(conn *c, size_t n) { memmove(c->in, c->in + n, c->inlen - n); c->inlen -= n; }

/* handle each whole request in the buffer; -1: dropped */
static int parse(conn *c) {
    for (;;) {
        if (c->streaming || c->outlen) return 1;
        char *end = memmem(c->in, c->inlen, "\r\n\r\n", 4);
        if (!end) return 1;
        size_t hl = end + 4 - c->in, blen = 0, total;
        char *body = c->in + hl;
        const char *v;
        if ((v = find_head(c->in, hl, "content-length"))) {
            blen = strtoul(v, NULL, 10);
            if (blen > BODY_MAX) { drop(c); return -1; }
            if (c->inlen < hl + blen) {
                if (find_head(c->in, hl, "expect") && c->inlen == hl)
                    if (send(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL) < 0) { drop(c); return -1; }
                return 1;
            }
            total = hl + blen;
        } else if ((v = find_head(c->in, hl, "transfer-encoding")) && !strncasecmp(v, "chunked", 7)) {
            /* decode in place once the last chunk is here */
            char *p = body, *w, *e = c->in + c->inlen;
            for (;;) {
                char *nl = memchr(p, '\n', e - p); if (!nl) return 1;
                size_t k = strtoul(p, NULL, 16);
                if (k > BODY_MAX) { drop(c); return -1; }
                if ((size_t)(e - nl - 1) < k + 2) return 1;
                p = nl + 1 + k + 2;
                if (!k) break;
            }
            total = p - c->in;
            for (p = w = body;;) {
                char *nl = memchr(p, '\n', e - p); size_t k = strtoul(p, NULL, 16);
                if (!k) break;
                memmove(w, nl + 1, k); w += k; p = nl + 1 + k + 2;
            }
            blen = w - body;
        } else total = hl;

        if ((v = find_head(c->in, hl, "connection")) && !strncasecmp(v, "close", 5)) c->close_after = 1;
        char *path = memchr(c->in, ' ', hl);
        if (!path) { drop(c); return -1; }
        path++;
        st_req++;
        str out = nf_json;
        int post = c->in[0] == 'P', kind = -1;
        c->usage = find_head(c->in, hl, "x-cortex-usage") != NULL;
        #define IS(s) (!strncmp(path, s, sizeof s - 1) && strchr(" ?", path[sizeof s - 1]))
        if (post && (IS("/v1/chat/completions") || IS("/v1/completions"))) { kind = 0; out = c->usage ? oa_json_usage : oa_json; }
        else if (post && IS("/v1/messages/count_tokens")) out = tok_json;
        else if (post && IS("/v1/messages")) { kind = 1; out = c->usage ? an_json_usage : an_json; }
        else if (post && IS("/v1/embeddings")) out = emb_json;
        else if (IS("/v1/models")) out = models_json;
        else if (IS("/report")) out = report_json;
        else if (IS("/models")) out = rows_json;
        else if (IS("/models/mock-model")) out = row_json;
        else if (IS("/models/mock-translated")) out = row_translated_json;
        else if (IS("/models/mock-model/endpoint") || IS("/models/mock-translated/endpoint")) out = endpoint_json;
        else if (IS("/discovery")) out = discovery_json;
        else if (IS("/metrics")) out = metrics_txt;
        else if (IS("/health") || IS("/health_generate") || IS("/ping")) out = ok_json;
        else if (IS("/version") || IS("/get_model_info") || IS("/model_info") || IS("/get_server_info") || IS("/server_info")) out = info_json;
        else if (IS("/_mock/set")) {
            out = ok_json;
            char *q;
            if ((q = strstr(path, "chunks="))) g_chunks = atoi(q + 7);
            if ((q = strstr(path, "delay_us="))) g_delay = strtoull(q + 9, NULL, 10);
            if ((q = strstr(path, "first_us="))) g_first = strtoull(q + 9, NULL, 10);
        } else if (IS("/_mock/stats")) {
            char b[512];
            sprintf(b, "{\"requests\":%lu,\"streams\":%lu,\"chunks\":%lu,\"connections\":%lu,\"openai\":%lu,\"anthropic\":%lu,\"aborted\":%lu}",
                    (unsigned long)st_req, (unsigned long)st_streams, (unsigned long)st_chunks, (unsigned long)st_conns,
                    (unsigned long)st_openai, (unsigned long)st_anthropic, (unsigned long)st_aborted);
            out = reply("application/json", b); c->own = out.p;
        }
        if (kind == 0) st_openai++;
        if (kind == 1) st_anthropic++;
        if (kind >= 0 && is_stream(body, blen)) {
            st_streams++; consume(c, total);
            c->streaming = 1; c->kind = kind; c->item = 0; c->chunks = g_chunks; c->delay = g_delay;
            c->due = now_us();
            if (g_first) { c->due += g_first; hpush(c); return 1; }
            int r = step(c); if (r < 0) return -1;
            if (r == 1) return schedule(c);
            return 1;
        }
        consume(c, total);
        int r = put(c, out); if (r < 0) return -1;
        if (r == 0) return 1;
        if (c->close_after) { drop(c); return -1; }
    }
}

static void on_read(conn *c) {
    for (;;) {
        if (c->incap - c->inlen < 65536) { c->incap = c->incap * 2 + 65536; c->in = realloc(c->in, c->incap + 1); }
        size_t room = c->incap - c->inlen;
        ssize_t n = recv(c->fd, c->in + c->inlen, room, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) { drop(c); return; }
        c->inlen += n; c->in[c->inlen] = 0;
        if (parse(c) < 0) return;
        if ((size_t)n < room) return;
    }
}

int main(int argc, char **argv) {
    int port = 9000;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) port = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--chunks")) g_chunks = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--delay-us")) g_delay = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--first-us")) g_first = strtoull(argv[i + 1], NULL, 10);
        else { fprintf(stderr, "mock: unknown option %s\n", argv[i]); return 2; }
    }
    struct rlimit rl; getrlimit(RLIMIT_NOFILE, &rl); rl.rlim_cur = rl.rlim_max < MAXFD ? rl.rlim_max : MAXFD; setrlimit(RLIMIT_NOFILE, &rl);
    init_bodies(port);
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) { perror("mock: listen"); return 1; }
    ep = epoll_create1(0);
    struct epoll_event e = { .events = EPOLLIN, .data.fd = ls }, ev[512];
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    for (;;) {
        struct timespec ts, *tp = NULL;
        if (nactive) { ts.tv_sec = ts.tv_nsec = 0; tp = &ts; }
        else if (nheap) {
            uint64_t t = now_us(), w = heap[0]->due > t ? heap[0]->due - t : 0;
            ts.tv_sec = w / 1000000; ts.tv_nsec = (w % 1000000) * 1000; tp = &ts;
        }
        int n = epoll_pwait2(ep, ev, 512, tp, NULL);
        for (int i = 0; i < n; i++) {
            int fd = ev[i].data.fd;
            if (fd == ls) {
                int s;
                while ((s = accept4(ls, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (s >= MAXFD) { close(s); continue; }
                    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    conn *c = calloc(1, sizeof *c); c->fd = s; c->heap = c->act = -1; conns[s] = c; st_conns++;
                    struct epoll_event x = { .events = EPOLLIN, .data.fd = s };
                    epoll_ctl(ep, EPOLL_CTL_ADD, s, &x);
                }
                continue;
            }
            conn *c = conns[fd]; if (!c) continue;
            if (ev[i].events & EPOLLOUT) {
                int r = flush(c); if (r < 0) continue;
                if (r == 1 && schedule(c) < 0) continue;
                c = conns[fd]; if (!c) continue;
            }
            if (ev[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) on_read(c);
        }
        uint64_t t = nheap ? now_us() : 0;
        while (nheap && heap[0]->due <= t) {
            conn *c = heap[0];
            int r = step(c); if (r < 0) continue;
            if (r == 1) schedule(c); else hdel(c);   /* blocked: schedule() runs after the flush */
        }
        for (int i = nactive - 1; i >= 0; i--) {
            if (i >= nactive) continue;
            conn *c = active[i];
            int r = step(c); if (r < 0) continue;
            if (r == 0) adel(c);
            else if (!c->streaming) schedule(c);
        }
    }
}
