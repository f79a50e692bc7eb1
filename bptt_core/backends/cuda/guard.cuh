// The guard of bptt_core/guard.py, whose names and rules these are: a learner that goes astray is led back, and now and
// then the parameters of one that does well are kept. Functions named `book_…` are thread 0's; all others are every
// thread's, and what they wrote is there for all after the next barrier.

__device__ void book_slow_down(Book& book, double factor) {
    const double slowed = factor * book.rate_factor;
    book.rate_factor = slowed > LEAST_FACTOR ? slowed : LEAST_FACTOR;
    book.healthy = book.steady = 0;
}

__device__ void book_reset(Book& book, int reason) {
    if (reason == RESET_NON_FINITE) book.reset_non_finite++;
    if (reason == RESET_DIVERGED) book.reset_diverged++;
    if (reason == RESET_RESTARTED) book.reset_restarted++;
    if (reason == RESET_SEASON) book.reset_season++;
}

// The optimiser begins anew.
__device__ void forget_moments(Book& book) {
    for (int k = 0; k < MOMENTS; k++) fill(moment(k), P, 0.0f);
    if (thread() == 0) book.optimizer_steps = 0;
}

// Carries, the losses so far and, with `moments`, those of the optimiser.
__device__ void forget(Book& book, bool moments) {
    fill(carry(), CARRIES * H, 0.0f);
    fill(boundary(), CARRIES * H, 0.0f);
    if (GUARD && thread() == 0) book.guard_count = book.healthy = book.steady = book.failures = 0;
    if (moments) forget_moments(book);
}

// An output of 0: the naive forecast.
__device__ void begin_readout_anew() {
    fill(params() + AT_WO, (H + 1) * K, 0.0f);
    if (GUARD) copy(good(), params(), AT_WO);
    if (GUARD) fill(good() + AT_WO, (H + 1) * K, 0.0f);
}

// Goes back to the good parameters, or begins anew if it has done so too often. Returns which of them, a reset's
// reason.
__device__ __noinline__ int lead_back(Book& book, int reason) {
    const int became = book.strikes + 1 > STRIKES ? RESET_RESTARTED : reason;
    copy(params(), good(), P);
    BARRIER();
    if (became == RESET_RESTARTED) begin_readout_anew();
    forget(book, reason != RESET_NON_FINITE);
    if (thread() == 0) {
        book.strikes = became == RESET_RESTARTED ? 0 : book.strikes + 1;
        book_slow_down(book, SLOWER);
        book_reset(book, became);
    }
    return became;
}

// Undoes an update that made the parameters leap, by this `ratio` of their norm: they have not been written yet.
__device__ void take_back(Book& book, float ratio) {
    if (!isfinite(ratio)) forget_moments(book);
    if (thread() == 0) {
        const double slowed = STEP / static_cast<double>(ratio);
        book_slow_down(book, isfinite(ratio) && slowed < MUCH_SLOWER ? slowed : MUCH_SLOWER);
        book_reset(book, RESET_DIVERGED);
    }
}

enum Verdict { GO_ON, ASTRAY, GOOD };

// Takes the finite losses of an update.
__device__ int book_judge(Book& book, double loss, double naive) {
    book.failures = 0;
    book.guard_count++;
    const double weight = 1.0 / (book.guard_count < GUARD_MEMORY ? book.guard_count : GUARD_MEMORY);
    book.guard_loss += weight * (loss - book.guard_loss);
    book.guard_naive += weight * (naive - book.guard_naive);
    book.healthy++;
    book.steady++;
    if (book.guard_count >= GUARD_FEWEST && book.guard_loss > FAR_ABOVE * book.guard_naive + SLACK) return ASTRAY;
    return book.healthy >= KEEP_EVERY && book.guard_loss <= book.guard_naive + SLACK ? GOOD : GO_ON;
}

__device__ void keep(Book& book) {
    copy(good(), params(), P);
    if (thread() > 0) return;
    book.healthy = book.strikes = 0;
    if (book.steady < RECOVERY) return;
    book.rate_factor = 2 * book.rate_factor < 1 ? 2 * book.rate_factor : 1;
    book.steady = 0;
}

// After an update: judged by its losses, kept or led back. Returns a reset's reason, or 0.
__device__ __noinline__ int judge(Book& book, const Losses& losses) {
    Shared& s = block();
    if (thread() == 0) s.verdict = book_judge(book, losses.loss, losses.naive);
    BARRIER();
    const int verdict = s.verdict;
    if (verdict == GOOD) keep(book);
    return verdict == ASTRAY ? lead_back(book, RESET_DIVERGED) : 0;
}

// An update was not finite. Returns a reset's reason, or 0.
__device__ int failed(Book& book) {
    const bool lost = book.failures + 1 >= FAILURES;
    BARRIER();
    if (thread() == 0) book.failures++;
    return lost ? lead_back(book, RESET_NON_FINITE) : 0;
}

// What the learner starts from is another value now: its readout begins anew, and what it was to learn is forgotten.
__device__ void change_season(Book& book) {
    begin_readout_anew();
    forget(book, true);
    fill(targets(), W * N, NOT_A_NUMBER);
    if (thread() == 0) book_reset(book, RESET_SEASON);
    BARRIER();
}
