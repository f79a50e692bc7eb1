/* One update of one learner in plain C loops: what a compiler makes of the obvious code. A yardstick for the compiled
 * learner; nothing else uses it.
 *
 * Forward over T steps, mean squared error, backward through time, clip by global norm, Adam. kernels.py compiles it
 * for T steps, D inputs and H hidden units of an LSTM (G = 4 gates i, f, g, o) or, with -DGRU, of a GRU (G = 3 gates
 * r, z, n, the reset gate after the recurrent product). Parameters lie as in a checkpoint: wx [D, G·H], wh [H, G·H],
 * b [G·H], of a GRU bh [H], then wo [H], bo. Matrices are read row by row, several rows at once, so that the inner
 * loops run over gates.
 */
#include <math.h>
#include <string.h>

#ifdef GRU
#define G 3
#define INNER H
#else
#define G 4
#define INNER 0
#endif
#define C (G * H)
#define WH (D * C)
#define B (WH + H * C)
#define BH (B + C)
#define WO (BH + INNER)
#define BO (WO + H)
#define P (BO + 1)
#define ROW ((P + 15) / 16 * 16) /* whole cache lines */

/* What an update works on. */
typedef struct {
    float z[T][C], dz[T][C], hs[T + 1][H], cs[T + 1][H], inner[T][H], dhs[T][H], dh[H], grad[P], one[T];
#ifdef GRU
    float dx[T][C], h_row[C]; /* slopes by the inputs' part of the gates; the hidden states' part of one step's */
#else
    float dc[H];
#endif
} Tape;

static inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }
static inline float hyperbolic(float x) { return 2 / (1 + expf(-2 * x)) - 1; }

/* to [C] += a [n] · rows [n, C]; n is a multiple of 8. */
static inline void add_rows(float *restrict to, const float *restrict a, const float *restrict rows, int n) {
    for (int k = 0; k < n; k += 8) {
        const float *restrict r = rows + k * C;
        for (int j = 0; j < C; j++)
            to[j] += a[k] * r[j] + a[k + 1] * r[C + j] + a[k + 2] * r[2 * C + j] + a[k + 3] * r[3 * C + j] +
                     a[k + 4] * r[4 * C + j] + a[k + 5] * r[5 * C + j] + a[k + 6] * r[6 * C + j] +
                     a[k + 7] * r[7 * C + j];
    }
}

/* to [H] += rows [H, C] · a [C]. */
static inline void add_dots(float *restrict to, const float *restrict a, const float *restrict rows) {
    for (int k = 0; k < H; k += 4) {
        const float *restrict r = rows + k * C;
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (int j = 0; j < C; j++) {
            s0 += a[j] * r[j];
            s1 += a[j] * r[C + j];
            s2 += a[j] * r[2 * C + j];
            s3 += a[j] * r[3 * C + j];
        }
        to[k] += s0;
        to[k + 1] += s1;
        to[k + 2] += s2;
        to[k + 3] += s3;
    }
}

static void project(Tape *restrict s, const float *restrict w, const float *restrict x) {
    for (int t = 0; t < T; t++) {
        memcpy(s->z[t], w + B, sizeof s->z[t]);
        for (int d = 0; d < D; d++)
            for (int j = 0; j < C; j++) s->z[t][j] += x[t * D + d] * w[d * C + j];
    }
}

/* to [n, C] += Σ_t a[t]ᵀ · slopes[t], of a [T, n] and slopes [T, C]. */
static inline void weight_gradient(float *restrict to, const float *restrict a, int n, const float *restrict slopes) {
    for (int k = 0; k < n; k++) {
        float column[T];
        for (int t = 0; t < T; t++) column[t] = a[t * n + k];
        add_rows(to + k * C, column, slopes, T);
    }
}

#ifdef GRU
static void forward(Tape *restrict s, const float *restrict w) {
    for (int t = 0; t < T; t++) {
        memset(s->h_row, 0, 2 * H * sizeof(float));
        memcpy(s->h_row + 2 * H, w + BH, H * sizeof(float));
        add_rows(s->h_row, s->hs[t], w + WH, H);
        for (int j = 0; j < 2 * H; j++) s->z[t][j] = sigmoid(s->z[t][j] + s->h_row[j]);
        for (int j = 0; j < H; j++) {
            float n = hyperbolic(s->z[t][2 * H + j] + s->z[t][j] * s->h_row[2 * H + j]);
            s->inner[t][j] = s->h_row[2 * H + j];
            s->z[t][2 * H + j] = n;
            s->hs[t + 1][j] = n + s->z[t][H + j] * (s->hs[t][j] - n);
        }
    }
}

static void backward(Tape *restrict s, const float *restrict w) {
    memset(s->dh, 0, sizeof s->dh);
    for (int t = T - 1; t >= 0; t--) {
        for (int j = 0; j < H; j++) {
            float r = s->z[t][j], u = s->z[t][H + j], n = s->z[t][2 * H + j], d = s->dh[j] + s->dhs[t][j];
            float dn = d * (1 - u) * (1 - n * n);
            s->dx[t][j] = s->dz[t][j] = dn * s->inner[t][j] * r * (1 - r);
            s->dx[t][H + j] = s->dz[t][H + j] = d * (s->hs[t][j] - n) * u * (1 - u);
            s->dx[t][2 * H + j] = dn;
            s->dz[t][2 * H + j] = dn * r;
            s->dh[j] = d * u;
        }
        add_dots(s->dh, s->dz[t], w + WH);
    }
}
#else
static void forward(Tape *restrict s, const float *restrict w) {
    for (int t = 0; t < T; t++) {
        add_rows(s->z[t], s->hs[t], w + WH, H);
        for (int j = 0; j < 2 * H; j++) s->z[t][j] = sigmoid(s->z[t][j]);
        for (int j = 2 * H; j < 3 * H; j++) s->z[t][j] = hyperbolic(s->z[t][j]);
        for (int j = 3 * H; j < C; j++) s->z[t][j] = sigmoid(s->z[t][j]);
        for (int j = 0; j < H; j++) {
            s->cs[t + 1][j] = s->z[t][H + j] * s->cs[t][j] + s->z[t][j] * s->z[t][2 * H + j];
            s->inner[t][j] = hyperbolic(s->cs[t + 1][j]);
            s->hs[t + 1][j] = s->z[t][3 * H + j] * s->inner[t][j];
        }
    }
}

static void backward(Tape *restrict s, const float *restrict w) {
    memset(s->dh, 0, sizeof s->dh);
    memset(s->dc, 0, sizeof s->dc);
    for (int t = T - 1; t >= 0; t--) {
        for (int j = 0; j < H; j++) {
            float i = s->z[t][j], f = s->z[t][H + j], g = s->z[t][2 * H + j], o = s->z[t][3 * H + j];
            float u = s->inner[t][j], d = s->dh[j] + s->dhs[t][j], c = s->dc[j] + d * o * (1 - u * u);
            s->dz[t][j] = c * g * i * (1 - i);
            s->dz[t][H + j] = c * s->cs[t][j] * f * (1 - f);
            s->dz[t][2 * H + j] = c * i * (1 - g * g);
            s->dz[t][3 * H + j] = d * u * o * (1 - o);
            s->dc[j] = c * f;
            s->dh[j] = 0;
        }
        add_dots(s->dh, s->dz[t], w + WH);
    }
}
#endif

/* Outputs, and the slopes of the loss by them and by the hidden states. */
static void read_out(Tape *restrict s, const float *restrict w, const float *restrict y) {
    for (int t = 0; t < T; t++) {
        float out = w[BO];
        for (int j = 0; j < H; j++) out += s->hs[t + 1][j] * w[WO + j];
        float slope = (out - y[t]) * (2.0f / T);
        s->grad[BO] += slope;
        for (int j = 0; j < H; j++) {
            s->grad[WO + j] += slope * s->hs[t + 1][j];
            s->dhs[t][j] = slope * w[WO + j];
        }
    }
}

static void adam(const float *restrict grad, float *restrict w, float *restrict m, float *restrict v, float rate,
                 float limit, int step) {
    float square = 0;
    for (int j = 0; j < P; j++) square += grad[j] * grad[j];
    float factor = limit / (sqrtf(square) + 1e-6f);
    float of_m = rate / (1 - powf(0.9f, step)), of_v = 1 / (1 - powf(0.999f, step));
    if (factor > 1) factor = 1;
    for (int j = 0; j < P; j++) {
        float g = grad[j] * factor;
        m[j] = 0.9f * m[j] + 0.1f * g;
        v[j] = 0.999f * v[j] + 0.001f * g * g;
        w[j] -= of_m * m[j] / (sqrtf(v[j] * of_v) + 1e-8f);
    }
}

static void update(Tape *s, float *w, float *m, float *v, const float *x, const float *y, const float *carry,
                   float rate, float limit, int step) {
    memset(s->grad, 0, sizeof s->grad);
    memcpy(s->hs[0], carry, sizeof s->hs[0]);
    memcpy(s->cs[0], carry + H, sizeof s->cs[0]);
    project(s, w, x);
    forward(s, w);
    read_out(s, w, y);
    backward(s, w);
#ifdef GRU
    const float *slopes = s->dx[0];
    for (int t = 0; t < T; t++)
        for (int j = 0; j < H; j++) s->grad[BH + j] += s->dz[t][2 * H + j];
#else
    const float *slopes = s->dz[0];
#endif
    for (int t = 0; t < T; t++) s->one[t] = 1;
    weight_gradient(s->grad, x, D, slopes);
    weight_gradient(s->grad + WH, s->hs[0], H, s->dz[0]);
    add_rows(s->grad + B, s->one, slopes, T);
    adam(s->grad, w, m, v, rate, limit, step);
}

int row_numbers(void) { return ROW; }
int tape_numbers(void) { return sizeof(Tape) / sizeof(float); }

/* `count` updates of each of n learners, whose parameters and moments are rows [n, 3, ROW]; the window of the streams
 * x [T + count - 1, D] and y [T + count - 1] moves on by one step each time. `carry` [2, H] is where each begins. All
 * but the streams begin on cache lines. */
void updates(Tape *tape, float *learners, int n, const float *x, const float *y, const float *carry, float rate,
             float limit, int first_step, int count) {
    for (int k = 0; k < n; k++) {
        float *w = learners + (long)k * 3 * ROW;
        for (int i = 0; i < count; i++)
            update(tape, w, w + ROW, w + 2 * ROW, x + i * D, y + i, carry, rate, limit, first_step + i);
    }
}
