/* ptx_host.cpp - copies of single threads, matrices of warps, products of warpgroups.
 *
 * Fragment and memory layouts: PTX manual, "Matrix Fragments for
 * mma.m16n8k16", "ldmatrix", and "Register Fragments and Shared Memory Matrix
 * Layouts" of wgmma.
 */
#include "tests/cuda_emulator/ptx_host.cuh"

#include "tests/cuda_emulator/engine.h"

using namespace emulator;

static const uint32_t all_lanes = ~0u;

static float widen(uint16_t bits)
{
    return __uint_as_float((uint32_t)bits << 16);
}

/* Copies */

static void copy_run(copy_operation &copy)
{
    if (copy.is_done)
        return;
    copy.is_done = true;
    kernel_reads(copy.from, (size_t)copy.valid);
    kernel_writes(copy.to, (size_t)copy.bytes);
    own_memory own;
    memset(copy.to, 0, (size_t)copy.bytes);
    memcpy(copy.to, copy.from, (size_t)copy.valid);
}

void cp_async_16(void *shared, const void *global, bool valid)
{
    if ((((uintptr_t)shared | (uintptr_t)global) & 15) != 0)
        misuse("cp_async_16: %p to %p, not both 16-byte aligned", global, shared);
    shared_at(shared_offset(shared, "cp_async_16"), 16, "cp_async_16");
    copy_operation copy = {(unsigned char *)shared, (const unsigned char *)global, 16,
                           valid ? 16 : 0, false};
    if (happens_now())
        copy_run(copy);
    own_memory own;
    current_fiber().copies.push(copy);
}

void cp_async_commit()
{
    own_memory own;
    current_fiber().copies.commit();
}

void emulator::copies_wait(int groups_left)
{
    std::vector<copy_operation> due;
    {
        own_memory own;
        due = current_fiber().copies.pop_until((size_t)groups_left);
    }
    for (copy_operation &copy : due)
        copy_run(copy);
}

/* Matrices of 8 x 8 numbers: lane 4 r + c holds (r, 2 c) and (r, 2 c + 1), transposed (2 c, r) and
 * (2 c + 1, r).  Lane 8 i + r brings the address of row r of matrix i. */

struct matrix_rows {
    unsigned char *row;
    uint32_t r[4];
};

static void check_row(const void *row, int count, const char *name)
{
    if (thread->lane >= 8 * count)
        return;
    if (((uintptr_t)row & 15) != 0)
        misuse("%s: the row of lane %d is not 16-byte aligned", name, thread->lane);
    shared_at(shared_offset(row, name), 16, name);
}

/* The place of number `j` of this lane's two in matrix i. */
static unsigned char *matrix_at(const slots &all, int i, int j, bool is_transposed)
{
    int along = thread->lane / 4, across = thread->lane % 4 * 2 + j;
    int row = is_transposed ? across : along, column = is_transposed ? along : across;
    return fetch<matrix_rows>(all, 8 * i + row).row + 2 * column;
}

void emulator::matrix_load(uint32_t *r, int count, bool is_transposed, const void *row)
{
    const char *name = is_transposed ? "ldmatrix_trans" : "ldmatrix";
    check_row(row, count, name);
    matrix_rows mine = {(unsigned char *)const_cast<void *>(row), {}};
    slots &all = warp_meet(all_lanes, name, &mine, sizeof mine);
    for (int i = 0; i < count; i++) {
        uint16_t number[2];
        for (int j = 0; j < 2; j++) {
            const unsigned char *at = matrix_at(all, i, j, is_transposed);
            kernel_reads(at, 2);
            memcpy(&number[j], at, 2);
        }
        r[i] = number[0] | (uint32_t)number[1] << 16;
    }
}

void emulator::matrix_store(void *row, int count, bool is_transposed, const uint32_t *r)
{
    const char *name = is_transposed ? "stmatrix_trans" : "stmatrix";
    check_row(row, count, name);
    matrix_rows mine = {(unsigned char *)row, {}};
    slots &all = warp_meet(all_lanes, name, &mine, sizeof mine);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < 2; j++) {
            unsigned char *at = matrix_at(all, i, j, is_transposed);
            uint16_t number = (uint16_t)(r[i] >> (16 * j));
            kernel_writes(at, 2);
            memcpy(at, &number, 2);
        }
}

struct mma_registers {
    float d[4];
    uint32_t a[4], b[2];
};

static void mma_lead(slots &all, uint32_t)
{
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < WARP_LANES; lane++) {
        mma_registers r = fetch<mma_registers>(all, lane);
        int g = lane / 4, c = lane % 4 * 2;
        for (int j = 0; j < 2; j++) {
            for (int i = 0; i < 4; i++)
                a[g + i % 2 * 8][c + j + i / 2 * 8] = widen((uint16_t)(r.a[i] >> (16 * j)));
            for (int i = 0; i < 2; i++) {
                b[c + j + i * 8][g] = widen((uint16_t)(r.b[i] >> (16 * j)));
                d[g + i * 8][c + j] = r.d[2 * i + j];
            }
        }
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++)
                d[i][j] += a[i][k] * b[k][j];
    for (int lane = 0; lane < WARP_LANES; lane++) {
        float result[4];
        for (int i = 0; i < 4; i++)
            result[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
        memcpy(all.of_lane[lane], result, sizeof result);
    }
}

void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    mma_registers mine;
    memcpy(mine.d, d, sizeof d);
    memcpy(mine.a, a, sizeof a);
    mine.b[0] = b0;
    mine.b[1] = b1;
    slots &all = warp_meet(all_lanes, "mma_m16n8k16_bf16", &mine, sizeof mine, mma_lead);
    memcpy(d, all.of_lane[thread->lane], sizeof d);
}

/* Products of a warpgroup.  Each warp computes its 16 of the 64 rows, from a queue of its own. */

enum { PRODUCT_N_MAX = 256, PRODUCT_K = 16, WARP_ROWS = 16 };
enum { PRODUCT_CHUNKS_MAX = (PRODUCT_N_MAX + WARP_ROWS) * PRODUCT_K / 8 };

/* What accumulators hold while a product is on its way: a signalling NaN, which all arithmetic changes. */
static const uint32_t in_flight = 0x7fa0f117u;

struct product_input {
    float *d;
    uint64_t a, b;
    uint32_t a_registers[4];
    int16_t n, accumulate;
    bool a_in_registers, a_transposed, b_transposed;
};

static void check_descriptor(uint64_t descriptor, const char *name)
{
    if (descriptor >> 62 != 1)
        misuse("wgmma: the descriptor of %s is not of the 128-byte swizzle", name);
    if ((descriptor & 0x38) != 0)
        misuse("wgmma: %s begins at row %u of a swizzled group of 8", name,
               (unsigned)(descriptor >> 3 & 7));
}

#ifdef EMULATOR_TSAN
static __thread const unsigned char *chunks_read[PRODUCT_CHUNKS_MAX];
static __thread int n_chunks_read;

/* By the warp's last thread, in a meeting; once more by the asynchronous proxy: proxy_reads. */
static void product_reads(const unsigned char *at)
{
    kernel_memory read;
    kernel_reads(at, 16);
    chunks_read[n_chunks_read++] = at;
}

static void proxy_reads()
{
    void *me = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(current->proxy_tsan, 1);
    order_after(&current->start);
    order_after(&current->fenced);
    for (; n_chunks_read > 0; n_chunks_read--)
        kernel_reads(chunks_read[n_chunks_read - 1], 16);
    order_before(&current->proxy_done);
    __tsan_switch_to_fiber(me, 1);
}
#else
static void product_reads(const unsigned char *)
{
}
static void proxy_reads()
{
}
#endif

/* 8 numbers that lie side by side: of K-major operands (row, k .. k + 7), of transposed ones
 * (row .. row + 7, k).  The swizzle is of absolute addresses. */
static void chunk_load(float *to, uint64_t descriptor, bool is_transposed, int row, int k)
{
    uint32_t start = (uint32_t)(descriptor & 0x3fff) << 4;
    uint32_t leading = (uint32_t)(descriptor >> 16 & 0x3fff) << 4;
    uint32_t stride = (uint32_t)(descriptor >> 32 & 0x3fff) << 4;
    unsigned r = (unsigned)row, c = (unsigned)k;
    uint32_t address = is_transposed
                           ? start + r / 64 * leading + r % 64 * 2 + c / 8 * stride + c % 8 * 128
                           : start + r / 8 * stride + r % 8 * 128 + c * 2;
    const unsigned char *at = shared_at(swizzle_128(address), 16, "wgmma");
    product_reads(at);
    uint16_t numbers[8];
    memcpy(numbers, at, sizeof numbers);
    for (int i = 0; i < 8; i++)
        to[i] = widen(numbers[i]);
}

/* to[k][row] of `rows` rows from `begin` on. */
static void operand_load(float *to, uint64_t descriptor, bool is_transposed, int begin, int rows)
{
    float chunk[8];
    for (int r = 0; r < rows; r += is_transposed ? 8 : 1)
        for (int k = 0; k < PRODUCT_K; k += is_transposed ? 1 : 8) {
            chunk_load(chunk, descriptor, is_transposed, begin + r, k);
            for (int i = 0; i < 8; i++)
                to[is_transposed ? k * rows + r + i : (k + i) * rows + r] = chunk[i];
        }
}

static void fragment_load(float *to, const uint32_t (&registers)[WARP_LANES][4])
{
    for (int lane = 0; lane < WARP_LANES; lane++)
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 2; j++)
                to[(lane % 4 * 2 + j + i / 2 * 8) * WARP_ROWS + lane / 4 + i % 2 * 8] =
                    widen((uint16_t)(registers[lane][i] >> (16 * j)));
}

/* Number i of lane's accumulators is (row, column) of the warp's part. */
static size_t accumulator_at(int lane, int i, int n)
{
    int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    return (size_t)(row * n + column);
}

/* Takes over what the threads' accumulators hold, unless an earlier product has. */
static struct accumulators *accumulators_take(warp &w, const slots &all, int n)
{
    float *first = fetch<product_input>(all, 0).d;
    for (struct accumulators *sums : w.sums)
        if (sums->d[0] == first) {
            if (sums->n != n)
                misuse("wgmma with N = %d on accumulators of a product with N = %d on its way", n,
                       sums->n);
            sums->products++;
            return sums;
        }
    struct accumulators *sums = new accumulators();
    sums->n = n;
    sums->products = 1;
    sums->values.resize((size_t)(WARP_ROWS * n));
    for (int lane = 0; lane < WARP_LANES; lane++) {
        float *d = sums->d[lane] = fetch<product_input>(all, lane).d;
        for (int i = 0; i < n / 2; i++) {
            sums->values[accumulator_at(lane, i, n)] = d[i];
            memcpy(d + i, &in_flight, sizeof in_flight);
        }
    }
    w.sums.push_back(sums);
    return sums;
}

/* One product has been waited for; the last gives back the sums. */
static void accumulators_release(warp &w, struct accumulators *sums)
{
    if (--sums->products > 0)
        return;
    for (int lane = 0; lane < WARP_LANES; lane++)
        for (int i = 0; i < sums->n / 2; i++) {
            float *d = sums->d[lane] + i;
            if (__float_as_uint(*d) != in_flight)
                misuse("wgmma: lane %d wrote accumulator %d while a product was on its way", lane,
                       i);
            *d = sums->values[accumulator_at(lane, i, sums->n)];
        }
    for (size_t i = 0; i < w.sums.size(); i++)
        if (w.sums[i] == sums)
            w.sums.erase(w.sums.begin() + (ptrdiff_t)i);
    delete sums;
}

static void product_run(wgmma_operation &operation)
{
    if (operation.is_done)
        return;
    operation.is_done = true;
    int n = operation.n, rows_begin = thread->warp % 4 * WARP_ROWS;
    static __thread float a[PRODUCT_K * WARP_ROWS], b[PRODUCT_K * PRODUCT_N_MAX];
    float *sums = operation.sums->values.data();
    if (operation.a_in_registers)
        fragment_load(a, operation.a_registers);
    else
        operand_load(a, operation.a, operation.a_transposed, rows_begin, WARP_ROWS);
    operand_load(b, operation.b, operation.b_transposed, 0, n);
    proxy_reads();
    if (!operation.accumulate)
        memset(sums, 0, sizeof(float) * (size_t)(WARP_ROWS * n));
    for (int r = 0; r < WARP_ROWS; r++)
        for (int k = 0; k < PRODUCT_K; k++)
            for (int j = 0; j < n; j++)
                sums[r * n + j] += a[k * WARP_ROWS + r] * b[k * n + j];
}

/* In the last lane to come, on behalf of the warp. */
static void issue_lead(slots &all, uint32_t)
{
    warp &w = current_warp();
    product_input first = fetch<product_input>(all, 0);
    wgmma_operation operation = {};
    if (!w.is_fenced)
        misuse("wgmma before a wgmma_fence");
    operation.n = first.n;
    operation.accumulate = first.accumulate;
    operation.a_in_registers = first.a_in_registers;
    operation.a_transposed = first.a_transposed;
    operation.b_transposed = first.b_transposed;
    operation.a = first.a;
    operation.b = first.b;
    for (int lane = 0; lane < WARP_LANES; lane++) {
        product_input input = fetch<product_input>(all, lane);
        if (input.a != first.a || input.b != first.b || input.accumulate != first.accumulate ||
            input.n != first.n)
            misuse("wgmma: lanes 0 and %d give different descriptors or flags", lane);
        memcpy(operation.a_registers[lane], input.a_registers, sizeof input.a_registers);
    }
    operation.sums = accumulators_take(w, all, operation.n);
    w.n_products++;
    w.products.push(operation);
    if (happens_now()) /* they run in order */
        for (wgmma_operation &each : w.products.operations)
            product_run(each);
}

void emulator::product_issue(int n, float *d, const uint32_t *a_registers, uint64_t a, uint64_t b,
                             bool a_transposed, bool b_transposed, int accumulate)
{
    product_input input = {d,
                           a,
                           b,
                           {},
                           (int16_t)n,
                           (int16_t)(accumulate != 0),
                           a_registers != NULL,
                           a_transposed,
                           b_transposed};
    static_assert(sizeof input <= SLOT_BYTES, "product_input");
    if (a_registers != NULL)
        memcpy(input.a_registers, a_registers, sizeof input.a_registers);
    else
        check_descriptor(a, "A");
    check_descriptor(b, "B");
    if (thread->warp / 4 * 4 + 4 > current->n_warps)
        misuse("wgmma in a warpgroup that is not whole");
    warp_meet(all_lanes, "wgmma", &input, sizeof input, issue_lead);
}

void fence_proxy_async()
{
    order_before(&current->fenced);
}

void wgmma_fence()
{
    warp_meet(all_lanes, "wgmma_fence", NULL, 0,
              [](slots &, uint32_t) { current_warp().is_fenced = true; });
}

void wgmma_commit()
{
    warp_meet(all_lanes, "wgmma_commit", NULL, 0,
              [](slots &, uint32_t) { current_warp().products.commit(); });
}

void emulator::products_wait(int groups_left)
{
    warp_meet(
        all_lanes, "wgmma_wait", &groups_left, sizeof groups_left,
        [](slots &all, uint32_t) {
            warp &w = current_warp();
            for (wgmma_operation &due : w.products.pop_until((size_t)fetch<int>(all, 0))) {
                product_run(due);
                accumulators_release(w, due.sums);
            }
        },
        true);
    order_after(&current->proxy_done);
}
