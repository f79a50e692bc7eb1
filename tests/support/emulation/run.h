// The face of a compiled kernel: one launch of `learn`, and the lines of the barriers that it met.

static float *given_slab, *given_spare;
static char* given_buffer;

extern "C" int emulate(int blocks, int threads, unsigned long long seed, int without, float* slab, char* buffer,
                       float* spare) {
    given_slab = slab, given_buffer = buffer, given_spare = spare;
    return emulation::run(blocks, threads, seed, without, [] { learn(given_slab, given_buffer, given_spare); });
}

extern "C" int barriers_met(int* lines, int most) {
    int count = 0;
    for (int line = 0; line < static_cast<int>(emulation::met.size()) && count < most; line++)
        if (emulation::met[line]) lines[count++] = line;
    return count;
}

extern "C" int shared_bytes() { return sizeof(Shared); }
