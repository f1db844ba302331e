// A stand-in for libcuda.so.1, for tests on machines without a GPU: device memory is the process's own, and kernels are run by
// a callback (the host device). It is as lazy as the driver may be: what is queued on a stream runs when somebody waits for
// it, so a missing wait shows as a wrong result. It refuses what the driver refuses: calls without a current context, grids
// and shared memory above the limits, allocation and waiting during a capture. It has the functions of CUDA 12.0 only, and
// cuMemFree waits for nothing: what is queued and still uses the memory finds NaN there. What cuMemFreeAsync frees is NaN when its
// stream has come to that, and only from then on the pool gives it out again.
//
// It fails when it is told to: WARPCONV_FAKE_FAULT is one of
//   illegal:WHERE    an illegal access, after which every call fails as on a real GPU
//   hang:WHERE       a kernel that never ends
//   slow:WHERE       a kernel that takes 20 ms more
//   wrong:WHERE      a wrong element in what a kernel writes
//   memory:BYTES     no allocation above so many bytes
// and WHERE is a kernel's name, or #N for the N-th kernel that is run.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};
typedef int Result;
typedef uint64_t Address;

// ---- what a test sets and reads

typedef void (*LaunchCallback)(const char* kernel, const uint32_t* grid, uint32_t shared_bytes, const void* params);
typedef size_t (*ParamsCallback)(const char* kernel); // bytes of the parameter struct; 0: no such kernel
static LaunchCallback run_kernel;
static ParamsCallback params_bytes;
static char call_log[1 << 16];
static size_t call_log_length;
static int64_t bytes_in_use, bytes_reserved;
enum { CAPABILITY, DRIVER_VERSION, LOAD_ERROR, GPUS, POOLS };
static int64_t settings[5] = {[CAPABILITY] = 90, [DRIVER_VERSION] = 13000, [GPUS] = 1, [POOLS] = 1};

void fake_set_callbacks(LaunchCallback launch, ParamsCallback params) { run_kernel = launch, params_bytes = params; }
void fake_set(int setting, int64_t value) { settings[setting] = value; }
int64_t fake_bytes_in_use(void) { return bytes_in_use; }
// With what the pool keeps, and what streams have not freed yet.
int64_t fake_bytes_reserved(void) { return bytes_reserved; }
// The names of the calls since the last time, each followed by a space.
const char* fake_take_log(void) {
    static char taken[sizeof call_log];
    strcpy(taken, call_log);
    call_log[0] = 0, call_log_length = 0;
    return taken;
}
static void note(const char* call) {
    // its length is kept: a launch takes as long as it would without the log
    size_t length = strlen(call);
    if (call_log_length + length + 2 >= sizeof call_log) return;
    memcpy(call_log + call_log_length, call, length);
    call_log_length += length;
    memcpy(call_log + call_log_length, " ", 2);
    call_log_length++;
}

// ---- streams: queues of launches and of copies

typedef struct Event {
    struct Stream* stream;
    uint64_t mark; // how many events the stream had recorded then
    double seconds; // when the stream came to it
} Event;
typedef struct Node {
    struct Node* next;
    Event* event; // instead of a launch or a copy
    uint64_t mark; // of the event, or of the event that is waited for
    struct Stream* waits_for; // instead: the stream whose event is waited for
    struct Block* freed; // instead: memory that goes back to the pool
    char kernel[96];
    uint32_t grid[3], shared_bytes;
    void *data, *to; // parameters, or what is copied and whereto
    const void* from; // instead of data: what a copy reads when it runs
    size_t bytes;
} Node;
typedef struct Stream {
    struct Stream* next;
    Node *first, *last;
    int capturing, invalidated;
    uint64_t recorded, reached; // events
} Stream;
typedef struct Graph {
    Node* first;
} Graph;
typedef struct Function {
    char name[96];
    uint32_t shared_limit;
} Function;

static Stream default_stream;
static Stream* streams = &default_stream;
static int context_object;
static __thread void* current;
static int any_capture(void) {
    for (Stream* s = streams; s; s = s->next)
        if (s->capturing) return 1;
    return 0;
}
static Stream* of(Stream* handle) { return handle ? handle : &default_stream; }
static void append(Stream* s, Node* n) {
    n->next = 0;
    if (s->last) s->last->next = n;
    else s->first = n;
    s->last = n;
}

// ---- faults

typedef struct Block {
    struct Block* next;
    unsigned char* start;
    size_t bytes;
} Block;
static Block* blocks;
static Block* gone; // freed while something was queued
static Result lost; // what every call returns from an illegal access on
enum { NO_FAULT, ILLEGAL, HANG, SLOW, WRONG, MEMORY };
static struct {
    int kind;
    char kernel[96];
    uint64_t number; // of the launch, or bytes
} fault;
__attribute__((constructor)) static void read_fault(void) {
    static const char* const kinds[] = {"", "illegal:", "hang:", "slow:", "wrong:", "memory:"};
    const char* text = getenv("WARPCONV_FAKE_FAULT");
    if (!text || !*text) return;
    for (int kind = ILLEGAL; kind <= MEMORY; kind++) {
        size_t length = strlen(kinds[kind]);
        if (strncmp(text, kinds[kind], length)) continue;
        fault.kind = kind;
        if (kind == MEMORY) fault.number = strtoull(text + length, 0, 10);
        else if (text[length] == '#') fault.number = strtoull(text + length + 1, 0, 10);
        else snprintf(fault.kernel, sizeof fault.kernel, "%s", text + length);
        return;
    }
    fprintf(stderr, "fake_driver.c: WARPCONV_FAKE_FAULT is %s, which is no fault\n", text);
    abort();
}
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
// Runs a kernel and changes the first element that it has changed in some memory that its parameters point to.
static void run_wrongly(Node* n) {
    enum { MOST = 16 };
    Block* touched[MOST];
    unsigned char* before[MOST];
    int count = 0;
    for (size_t at = 0; at + sizeof(Address) <= params_bytes(n->kernel); at += sizeof(Address)) {
        Address address;
        memcpy(&address, (char*)n->data + at, sizeof address);
        for (Block* b = blocks; b && count < MOST; b = b->next) {
            if (address < (Address)b->start || address >= (Address)b->start + b->bytes) continue;
            touched[count] = b;
            before[count++] = memcpy(malloc(b->bytes), b->start, b->bytes);
        }
    }
    run_kernel(n->kernel, n->grid, n->shared_bytes, n->data);
    int done = 0;
    for (int i = 0; i < count; i++) {
        for (size_t at = 0; !done && at < touched[i]->bytes; at++) {
            size_t high = at | 3; // of an element of two or of four bytes
            if (before[i][at] == touched[i]->start[at] || high >= touched[i]->bytes) continue;
            touched[i]->start[high] ^= 0x40;
            done = 1;
        }
        free(before[i]);
    }
}
static void step(Stream* s);
static Block* kept; // by the pool
static void execute(Stream* s, Node* n) {
    static uint64_t launches;
    if (n->freed) {
        memset(n->freed->start, 0xff, n->freed->bytes);
        n->freed->next = kept, kept = n->freed;
        return;
    }
    if (n->event) s->reached = n->mark;
    if (lost) return;
    if (n->event) {
        n->event->seconds = now();
        return;
    }
    if (n->mark) {
        Stream* other = n->waits_for;
        while (other->reached < n->mark && other->first) step(other);
        return;
    }
    if (n->to) {
        memcpy(n->to, n->from ? n->from : n->data, n->bytes);
        return;
    }
    launches++;
    int here = fault.kernel[0] ? !strcmp(fault.kernel, n->kernel) : fault.number == launches;
    if (here && fault.kind == ILLEGAL) {
        lost = ILLEGAL_ADDRESS;
        return;
    }
    while (here && fault.kind == HANG) sleep(1);
    if (here && fault.kind == SLOW) usleep(20000);
    if (here && fault.kind == WRONG) run_wrongly(n);
    else run_kernel(n->kernel, n->grid, n->shared_bytes, n->data);
}
static void step(Stream* s) {
    Node* n = s->first;
    s->first = n->next;
    if (!s->first) s->last = 0;
    execute(s, n);
    free(n->data);
    free(n);
}
static void drain(Stream* s) {
    while (s->first) step(s);
}
static void drain_all(void) {
    for (Stream* s = streams; s; s = s->next)
        if (!s->capturing) drain(s);
}
static void free_all(Block* b) {
    while (b) {
        Block* next = b->next;
        free(b->start);
        free(b);
        b = next;
    }
}
static uint64_t threshold; // of the one pool: what it keeps when somebody has waited
static void trim(uint64_t keep) {
    uint64_t bytes = 0;
    for (Block** b = &kept; *b;) {
        Block* block = *b;
        if (bytes + block->bytes <= keep) {
            bytes += block->bytes, b = &block->next;
            continue;
        }
        *b = block->next;
        bytes_reserved -= block->bytes;
        block->next = 0;
        free_all(block);
    }
}
static int is_idle(void) {
    for (Stream* s = streams; s; s = s->next)
        if (s->first) return 0;
    return 1;
}
static void* copied(const void* from, size_t bytes) { return memcpy(malloc(bytes ? bytes : 1), from, bytes); }

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static void unlock(int* held) { *held = pthread_mutex_unlock(&mutex); }
// Until the end of the function.
#define LOCK int held __attribute__((cleanup(unlock), unused)) = pthread_mutex_lock(&mutex);
#define NEEDS_CONTEXT(name)               \
    LOCK note(name);                      \
    if (!current) return INVALID_CONTEXT; \
    if (lost) return lost;
// Allocating or waiting while a stream is captured: the driver refuses it and spoils the capture.
#define REFUSED_IN_CAPTURE                                                            \
    if (any_capture()) {                                                              \
        for (Stream* other = streams; other; other = other->next) other->invalidated |= other->capturing; \
        return CAPTURE_UNSUPPORTED;                                                   \
    }

// ---- the driver

Result cuInit(unsigned flags) { return (void)flags, settings[GPUS] ? SUCCESS : NO_DEVICE; }
Result cuDriverGetVersion(int* v) { return *v = (int)settings[DRIVER_VERSION], SUCCESS; }
Result cuDeviceGetCount(int* n) { return *n = (int)settings[GPUS], SUCCESS; }
Result cuDeviceGet(int* d, int ordinal) { return *d = ordinal, ordinal < settings[GPUS] ? SUCCESS : INVALID_DEVICE; }
Result cuDeviceGetName(char* name, int length, int d) { return snprintf(name, length, "Fake GPU %d", d), SUCCESS; }
Result cuDeviceGetAttribute(int* v, int attribute, int d) {
    (void)d;
    switch (attribute) {
    case 5: *v = 0x7fffffff; break;                      // MAX_GRID_DIM_X
    case 6: case 7: *v = 65535; break;                   // MAX_GRID_DIM_Y, Z
    case 16: *v = 132; break;                            // MULTIPROCESSOR_COUNT
    case 38: *v = 1 << 16; break;                        // L2_CACHE_SIZE
    case 75: *v = (int)settings[CAPABILITY] / 10; break; // COMPUTE_CAPABILITY_MAJOR
    case 76: *v = (int)settings[CAPABILITY] % 10; break; // COMPUTE_CAPABILITY_MINOR
    case 97: *v = 227 * 1024; break;                     // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    case 115: *v = (int)settings[POOLS]; break;          // MEMORY_POOLS_SUPPORTED
    default: return INVALID_VALUE;
    }
    return SUCCESS;
}
Result cuDevicePrimaryCtxRetain(void** c, int d) { return (void)d, *c = &context_object, SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int d) { return (void)d, SUCCESS; }
Result cuCtxGetCurrent(void** c) { return *c = current, SUCCESS; }
Result cuCtxSetCurrent(void* c) { return current = c, SUCCESS; }
Result cuCtxSynchronize(void) {
    NEEDS_CONTEXT("cuCtxSynchronize") REFUSED_IN_CAPTURE
    drain_all();
    trim(threshold);
    return lost;
}
Result cuGetErrorName(Result e, const char** s) { return (void)e, *s = "CUDA_ERROR", SUCCESS; }
Result cuGetErrorString(Result e, const char** s) {
    static char text[64];
    snprintf(text, sizeof text, "fake error %d", e);
    return *s = text, SUCCESS;
}

static Result allocate(Address* a, size_t bytes) {
    if (bytes > (1ull << 32) || (fault.kind == MEMORY && bytes > fault.number)) return OUT_OF_MEMORY;
    Block* block = calloc(1, sizeof *block);
    block->start = memset(aligned_alloc(256, (bytes + 255) / 256 * 256), 0xff, bytes);
    block->bytes = bytes;
    block->next = blocks, blocks = block;
    bytes_in_use += bytes, bytes_reserved += bytes;
    return *a = (Address)block->start, SUCCESS;
}
Result cuMemAlloc_v2(Address* a, size_t bytes) {
    NEEDS_CONTEXT("cuMemAlloc") REFUSED_IN_CAPTURE
    return allocate(a, bytes);
}
Result cuMemFree_v2(Address a) {
    NEEDS_CONTEXT("cuMemFree") REFUSED_IN_CAPTURE
    for (Block** b = &blocks; *b; b = &(*b)->next) {
        Block* block = *b;
        if ((Address)block->start != a) continue;
        *b = block->next;
        bytes_in_use -= block->bytes, bytes_reserved -= block->bytes;
        memset(block->start, 0xff, block->bytes);
        block->next = gone, gone = block;
        if (is_idle()) free_all(gone), gone = 0;
        return lost;
    }
    return INVALID_VALUE;
}
// One pool, which gives out again what it keeps if the size is the same.
Result cuMemPoolCreate(void** pool, const int* properties) {
    NEEDS_CONTEXT("cuMemPoolCreate")
    // pinned memory of the first device, which no other process shares
    if (properties[0] != 1 || properties[1] || properties[2] != 1 || properties[3]) return INVALID_VALUE;
    return *pool = &threshold, threshold = 0, SUCCESS;
}
Result cuMemPoolDestroy(void* pool) {
    NEEDS_CONTEXT("cuMemPoolDestroy")
    return (void)pool, threshold = 0, trim(0), SUCCESS;
}
Result cuMemPoolSetAttribute(void* pool, int attribute, const void* value) {
    NEEDS_CONTEXT("cuMemPoolSetAttribute")
    (void)pool;
    if (attribute == 4) return memcpy(&threshold, value, sizeof threshold), SUCCESS; // RELEASE_THRESHOLD
    if (attribute == 3 && !*(const int*)value) return SUCCESS; // REUSE_ALLOW_INTERNAL_DEPENDENCIES: there are none
    return INVALID_VALUE;
}
Result cuMemPoolTrimTo(void* pool, size_t keep) {
    NEEDS_CONTEXT("cuMemPoolTrimTo")
    return (void)pool, trim(keep), SUCCESS;
}
Result cuMemAllocFromPoolAsync(Address* a, size_t bytes, void* pool, Stream* s) {
    NEEDS_CONTEXT("cuMemAllocFromPoolAsync")
    (void)pool;
    if (of(s)->capturing) return of(s)->invalidated = 1, CAPTURE_UNSUPPORTED; // an accident: the graph would allocate
    for (Block** b = &kept; *b; b = &(*b)->next) {
        Block* block = *b;
        if (block->bytes != bytes) continue;
        *b = block->next;
        block->next = blocks, blocks = block;
        bytes_in_use += bytes;
        return *a = (Address)block->start, SUCCESS;
    }
    return allocate(a, bytes);
}
// From the device's default pool, as cudarc allocates for others.
Result cuMemAllocAsync(Address* a, size_t bytes, Stream* s) { return cuMemAllocFromPoolAsync(a, bytes, 0, s); }
Result cuMemFreeAsync(Address a, Stream* s) {
    NEEDS_CONTEXT("cuMemFreeAsync")
    if (of(s)->capturing) return of(s)->invalidated = 1, CAPTURE_UNSUPPORTED; // as above
    for (Block** b = &blocks; *b; b = &(*b)->next) {
        Block* block = *b;
        if ((Address)block->start != a) continue;
        *b = block->next;
        bytes_in_use -= block->bytes;
        Node* n = calloc(1, sizeof *n);
        n->freed = block;
        append(of(s), n);
        return SUCCESS;
    }
    return INVALID_VALUE;
}
Result cuMemGetInfo_v2(size_t* free_bytes, size_t* total) { return *free_bytes = 1ull << 30, *total = 1ull << 32, SUCCESS; }
// Pinned memory of the host: copies from and to it are done when somebody waits for the stream.
static Block* pinned;
static int is_pinned(const void* at) {
    for (Block* b = pinned; b; b = b->next)
        if ((const unsigned char*)at >= b->start && (const unsigned char*)at < b->start + b->bytes) return 1;
    return 0;
}
Result cuMemHostAlloc(void** p, size_t bytes, unsigned flags) {
    NEEDS_CONTEXT("cuMemHostAlloc") REFUSED_IN_CAPTURE
    (void)flags;
    if (bytes > (1ull << 32)) return OUT_OF_MEMORY;
    Block* block = calloc(1, sizeof *block);
    block->start = memset(aligned_alloc(256, (bytes + 255) / 256 * 256), 0xff, bytes);
    block->bytes = bytes;
    block->next = pinned, pinned = block;
    return *p = block->start, SUCCESS;
}
Result cuMemFreeHost(void* p) {
    NEEDS_CONTEXT("cuMemFreeHost") REFUSED_IN_CAPTURE
    for (Block** b = &pinned; *b; b = &(*b)->next) {
        Block* block = *b;
        if (block->start != p) continue;
        *b = block->next;
        memset(block->start, 0xff, block->bytes);
        block->next = gone, gone = block;
        if (is_idle()) free_all(gone), gone = 0;
        return lost;
    }
    return INVALID_VALUE;
}
static void append_copy(Stream* s, void* to, const void* from, size_t bytes) {
    Node* n = calloc(1, sizeof *n);
    n->to = to, n->from = from, n->bytes = bytes;
    append(of(s), n);
}
// From pageable memory: the source is read on return, the destination written when somebody waits for the stream.
Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream* s) {
    NEEDS_CONTEXT("cuMemcpyHtoDAsync")
    if (is_pinned(from)) return append_copy(s, (void*)to, from, bytes), SUCCESS;
    Node* n = calloc(1, sizeof *n);
    n->data = copied(from, bytes), n->to = (void*)to, n->bytes = bytes;
    append(of(s), n);
    return SUCCESS;
}
Result cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
    REFUSED_IN_CAPTURE
    return cuMemcpyHtoDAsync_v2(to, from, bytes, 0);
}
Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream* s) {
    NEEDS_CONTEXT("cuMemcpyDtoHAsync")
    if (is_pinned(to)) return append_copy(s, to, (void*)from, bytes), SUCCESS;
    drain(of(s));
    if (lost) return lost;
    memcpy(to, (void*)from, bytes);
    return SUCCESS;
}
Result cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) {
    REFUSED_IN_CAPTURE
    return cuMemcpyDtoHAsync_v2(to, from, bytes, 0);
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream* s) {
    NEEDS_CONTEXT("cuMemcpyDtoDAsync")
    Node* n = calloc(1, sizeof *n);
    n->data = copied((void*)from, bytes), n->to = (void*)to, n->bytes = bytes;
    append(of(s), n);
    return SUCCESS;
}
Result cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Stream* s) {
    NEEDS_CONTEXT("cuMemsetD8Async")
    Node* n = calloc(1, sizeof *n);
    n->data = memset(malloc(bytes + 1), value, bytes), n->to = (void*)to, n->bytes = bytes;
    append(of(s), n);
    return SUCCESS;
}
Result cuMemsetD8_v2(Address to, unsigned char value, size_t bytes) {
    REFUSED_IN_CAPTURE
    return cuMemsetD8Async(to, value, bytes, 0);
}

Result cuModuleLoadData(void** m, const void* image) {
    NEEDS_CONTEXT("cuModuleLoadData")
    if (settings[LOAD_ERROR]) return (Result)settings[LOAD_ERROR];
    if ((uintptr_t)image % 8 || *(const uint32_t*)image != 0xba55ed50) return INVALID_IMAGE; // a fatbin's first word
    return *m = malloc(1), SUCCESS;
}
Result cuModuleUnload(void* m) {
    NEEDS_CONTEXT("cuModuleUnload")
    return free(m), SUCCESS;
}
Result cuModuleGetFunction(Function** f, void* m, const char* name) {
    NEEDS_CONTEXT("cuModuleGetFunction")
    (void)m;
    if (!params_bytes(name)) return NOT_FOUND;
    *f = calloc(1, sizeof **f);
    snprintf((*f)->name, sizeof (*f)->name, "%s", name);
    (*f)->shared_limit = 48 * 1024;
    return SUCCESS;
}
Result cuFuncSetAttribute(Function* f, int attribute, int value) {
    NEEDS_CONTEXT("cuFuncSetAttribute")
    if (attribute != 8 || value < 0 || value > 227 * 1024) return INVALID_VALUE; // MAX_DYNAMIC_SHARED_SIZE_BYTES
    return f->shared_limit = value, SUCCESS;
}
Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* f, int threads, size_t shared_bytes) {
    NEEDS_CONTEXT("cuOccupancyMaxActiveBlocksPerMultiprocessor")
    if (threads < 1 || threads > 1024 || shared_bytes > f->shared_limit) return INVALID_VALUE;
    return *blocks = 2, SUCCESS;
}
Result cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared_bytes, Stream* s, void** params, void** extra) {
    NEEDS_CONTEXT("cuLaunchKernel")
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535 || bx * by * bz > 1024 || !bx || by != 1 || bz != 1)
        return INVALID_VALUE;
    if (shared_bytes > f->shared_limit || extra) return INVALID_VALUE;
    Node* n = calloc(1, sizeof *n);
    strcpy(n->kernel, f->name);
    n->grid[0] = gx, n->grid[1] = gy, n->grid[2] = gz, n->shared_bytes = shared_bytes;
    n->data = copied(params[0], params_bytes(f->name));
    append(of(s), n);
    return SUCCESS;
}

Result cuStreamCreate(Stream** s, unsigned flags) {
    NEEDS_CONTEXT("cuStreamCreate")
    (void)flags;
    *s = calloc(1, sizeof **s);
    (*s)->next = default_stream.next, default_stream.next = *s;
    return SUCCESS;
}
Result cuStreamDestroy_v2(Stream* s) {
    NEEDS_CONTEXT("cuStreamDestroy")
    drain(s);
    for (Stream* p = streams; p; p = p->next)
        if (p->next == s) p->next = s->next;
    return SUCCESS; // events may still point to it
}
Result cuStreamSynchronize(Stream* s) {
    NEEDS_CONTEXT("cuStreamSynchronize")
    if (of(s)->capturing) return of(s)->invalidated = 1, CAPTURE_UNSUPPORTED;
    drain(of(s));
    trim(threshold);
    return lost;
}
Result cuStreamQuery(Stream* s) {
    LOCK
    if (of(s)->capturing) return of(s)->invalidated = 1, CAPTURE_UNSUPPORTED;
    if (lost) return lost;
    return of(s)->first ? NOT_READY : SUCCESS;
}
Result cuStreamBeginCapture_v2(Stream* s, int mode) {
    NEEDS_CONTEXT("cuStreamBeginCapture")
    (void)mode;
    if (!s) return CAPTURE_UNSUPPORTED;
    drain(s);
    return s->capturing = 1, s->invalidated = 0, SUCCESS;
}
Result cuStreamIsCapturing(Stream* s, int* status) { return *status = of(s)->capturing, SUCCESS; }
Result cuStreamEndCapture(Stream* s, Graph** g) {
    NEEDS_CONTEXT("cuStreamEndCapture")
    s->capturing = 0;
    *g = calloc(1, sizeof **g);
    (*g)->first = s->first;
    s->first = s->last = 0;
    return s->invalidated ? CAPTURE_INVALIDATED : SUCCESS;
}
Result cuGraphInstantiateWithFlags(Graph** e, Graph* g, unsigned long long flags) { return (void)flags, *e = g, SUCCESS; }
Result cuGraphLaunch(Graph* g, Stream* s) {
    NEEDS_CONTEXT("cuGraphLaunch")
    for (Node* n = g->first; n; n = n->next) {
        Node* again = copied(n, sizeof *n);
        again->data = copied(n->data, n->to ? n->bytes : params_bytes(n->kernel));
        append(of(s), again);
    }
    return SUCCESS;
}
Result cuGraphUpload(Graph* g, Stream* s) { return (void)g, (void)s, SUCCESS; }
Result cuGraphExecDestroy(Graph* g) { return (void)g, SUCCESS; }
Result cuGraphDestroy(Graph* g) { return (void)g, SUCCESS; }

// An event is a point in a stream's queue. Waiting for it runs the whole stream.
static Event nobody; // stands for events that are gone
Result cuEventCreate(Event** e, unsigned flags) {
    NEEDS_CONTEXT("cuEventCreate")
    return (void)flags, *e = calloc(1, sizeof **e), SUCCESS;
}
Result cuEventRecord(Event* e, Stream* s) {
    NEEDS_CONTEXT("cuEventRecord")
    Node* n = calloc(1, sizeof *n);
    n->event = e, e->stream = of(s);
    n->mark = e->mark = ++of(s)->recorded;
    append(of(s), n);
    return SUCCESS;
}
Result cuEventSynchronize(Event* e) {
    NEEDS_CONTEXT("cuEventSynchronize")
    if (e->stream) drain(e->stream);
    trim(threshold);
    return lost;
}
// A GPU that has done nothing yet: work is under way until somebody waits for it.
Result cuEventQuery(Event* e) {
    LOCK
    if (lost) return lost;
    for (Node* n = e->stream ? e->stream->first : 0; n; n = n->next)
        if (n->event == e) return NOT_READY;
    return SUCCESS;
}
Result cuEventElapsedTime(float* ms, Event* start, Event* end) {
    NEEDS_CONTEXT("cuEventElapsedTime")
    double between = 1e3 * (end->seconds - start->seconds);
    return *ms = between > 1e-3 ? (float)between : 1e-3f, SUCCESS;
}
Result cuEventDestroy_v2(Event* e) {
    LOCK
    for (Stream* s = streams; s; s = s->next)
        for (Node* n = s->first; n; n = n->next)
            if (n->event == e) n->event = &nobody;
    return free(e), SUCCESS;
}
Result cuStreamWaitEvent(Stream* s, Event* e, unsigned flags) {
    LOCK note("cuStreamWaitEvent");
    (void)flags;
    if (of(s)->capturing) return of(s)->invalidated = 1, CAPTURE_UNSUPPORTED;
    if (!e->stream || e->stream == of(s)) return SUCCESS;
    Node* n = calloc(1, sizeof *n);
    n->waits_for = e->stream, n->mark = e->mark;
    append(of(s), n);
    return SUCCESS;
}
