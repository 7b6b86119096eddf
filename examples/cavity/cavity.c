/* Steady flow in a square cavity whose lid slides at speed 1: stream function, second order, Newton's method.
 *
 *     cavity REYNOLDS CELLS THREADS FOLDER
 *
 * The unit square has CELLS x CELLS equal cells (an even number). With the stream function psi, zero on every wall,
 *
 *     u = psi_y,   v = -psi_x,   w = -(psi_xx + psi_yy),   u w_x + v w_y = (w_xx + w_yy) / REYNOLDS
 *
 * and central differences everywhere, each inner node gives one equation that reaches two nodes far. Newton's method
 * solves them all at once; its linear systems are banded, and a direct solver leaves no tolerance to tune. From a guess
 * that is near enough it doubles the correct digits in each step, which history.csv shows. Schreiber and Keller
 * (J. Comput. Phys. 49, 1983, 310-333) computed this flow in the same way.
 *
 * Written to FOLDER: line_u.csv and line_v.csv (velocities on the centre lines), field.csv (every node), history.csv.
 * Exit status: 0 converged, 1 did not, 2 bad arguments or no room.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define BLOCK 16           /* pivot rows eliminated together: they stay in the cache while each later row passes once */
#define CONVERGED 1e-10    /* largest change of psi, itself about 0.1, in the last step: the next is far smaller */
#define MOST_STEPS 20      /* a Newton iteration that needs more has lost its way */
#define STRIDE_OF_RE 2.0   /* from the flow at half the Reynolds number it finds its way; from a quarter not always */

static int cells;          /* per side; nodes are numbered 0..cells in both directions */
static double h;           /* width of a cell */

#define NODE(i, j) ((size_t)(j) * (cells + 1) + (i))

/* ---- the equations -------------------------------------------------------------------------------------------- */

/* Vorticity at a node as a sum of `weight` times psi at `node`, plus `constant`. */
typedef struct {
    int n;
    struct { int i, j; double weight; } term[5];
    double constant;
} Stencil;

static void add(Stencil *s, int i, int j, double weight)
{
    s->term[s->n].i = i;
    s->term[s->n].j = j;
    s->term[s->n++].weight = weight;
}

/* On a wall the node beyond it is eliminated with the wall's own speed (Thom's formula). */
static Stencil vorticity_stencil(int i, int j)
{
    Stencil s = {0};
    const double d = 1 / (h * h);
    if (i == 0) {
        add(&s, 1, j, -2 * d);
    } else if (i == cells) {
        add(&s, cells - 1, j, -2 * d);
    } else if (j == 0) {
        add(&s, i, 1, -2 * d);
    } else if (j == cells) {
        add(&s, i, cells - 1, -2 * d);
        s.constant = -2 / h;
    } else {
        add(&s, i, j, 4 * d);
        add(&s, i - 1, j, -d);
        add(&s, i + 1, j, -d);
        add(&s, i, j - 1, -d);
        add(&s, i, j + 1, -d);
    }
    return s;
}

static void vorticity(const double *psi, double *w)
{
    for (int j = 0; j <= cells; j++)
        for (int i = 0; i <= cells; i++) {
            const Stencil s = vorticity_stencil(i, j);
            w[NODE(i, j)] = s.constant;
            for (int k = 0; k < s.n; k++)
                w[NODE(i, j)] += s.term[k].weight * psi[NODE(s.term[k].i, s.term[k].j)];
        }
}

static void velocity(const double *psi, double *u, double *v)
{
    for (int j = 0; j <= cells; j++)
        for (int i = 0; i <= cells; i++) {
            const int inside = i > 0 && i < cells && j > 0 && j < cells;
            u[NODE(i, j)] = inside ? (psi[NODE(i, j + 1)] - psi[NODE(i, j - 1)]) / (2 * h) : j == cells;
            v[NODE(i, j)] = inside ? (psi[NODE(i - 1, j)] - psi[NODE(i + 1, j)]) / (2 * h) : 0;
        }
}

/* ---- banded matrices ------------------------------------------------------------------------------------------- */

/* Row r holds the columns r - half .. r + half. */
typedef struct {
    int n, half;
    double *row0;
} Band;

/* Start of row r, shifted so that it is indexed by the column itself. */
static double *band_row(const Band *a, int r)
{
    return a->row0 + (size_t)r * (2 * a->half + 1) + a->half - r;
}

/* Takes pivot rows first..last-1 out of row r, keeping the multipliers in their place. */
static void eliminate(const Band *a, int r, int first, int last)
{
    double *restrict target = band_row(a, r);
    for (int p = first > r - a->half ? first : r - a->half; p < last; p++) {
        const double *restrict pivot = band_row(a, p);
        const double factor = target[p] / pivot[p];
        const int end = p + a->half < a->n - 1 ? p + a->half : a->n - 1;
        target[p] = factor;
        for (int c = p + 1; c <= end; c++)
            target[c] -= factor * pivot[c];
    }
}

/* Solves a x = b in place of b. No pivoting, which keeps the band as narrow as it is: the viscous part is a discrete
 * biharmonic operator, positive definite, and the convergence of the outer iteration shows whether it is enough. */
static void band_solve(const Band *a, double *b)
{
    for (int first = 0; first < a->n; first += BLOCK) {
        const int last = first + BLOCK < a->n ? first + BLOCK : a->n;
        const int reach = last + a->half < a->n ? last + a->half : a->n;
        for (int r = first + 1; r < last; r++)
            eliminate(a, r, first, r);
#pragma omp parallel for schedule(static)
        for (int r = last; r < reach; r++)
            eliminate(a, r, first, last);
    }
    for (int r = 0; r < a->n; r++) {
        const double *row = band_row(a, r);
        for (int c = r > a->half ? r - a->half : 0; c < r; c++)
            b[r] -= row[c] * b[c];
    }
    for (int r = a->n - 1; r >= 0; r--) {
        const double *row = band_row(a, r);
        const int end = r + a->half < a->n - 1 ? r + a->half : a->n - 1;
        for (int c = r + 1; c <= end; c++)
            b[r] -= row[c] * b[c];
        b[r] /= row[r];
    }
}

/* ---- Newton's method ------------------------------------------------------------------------------------------- */

/* Number of the unknown at an inner node, or -1 on a wall, where psi is known. */
static int unknown(int i, int j)
{
    return i > 0 && i < cells && j > 0 && j < cells ? (j - 1) * (cells - 1) + i - 1 : -1;
}

/* Fills in minus the residual and its derivative by every unknown; returns the largest residual, times the area of a
 * cell, so that grids compare. */
static double linearise(double reynolds, const double *psi, const double *w, Band *jacobian, double *minus_residual)
{
    static const int east[5] = {1, -1, 0, 0, 0}, north[5] = {0, 0, 1, -1, 0};
    double largest = 0;
    memset(jacobian->row0, 0, (size_t)jacobian->n * (2 * jacobian->half + 1) * sizeof(double));
    for (int j = 1; j < cells; j++)
        for (int i = 1; i < cells; i++) {
            const double u = (psi[NODE(i, j + 1)] - psi[NODE(i, j - 1)]) / (2 * h);
            const double v = (psi[NODE(i - 1, j)] - psi[NODE(i + 1, j)]) / (2 * h);
            const double w_x = (w[NODE(i + 1, j)] - w[NODE(i - 1, j)]) / (2 * h);
            const double w_y = (w[NODE(i, j + 1)] - w[NODE(i, j - 1)]) / (2 * h);
            const double viscous = 1 / (reynolds * h * h);
            /* by the vorticity of the neighbours E, W, N, S and of the node itself ... */
            const double by_w[5] = {u / (2 * h) - viscous, -u / (2 * h) - viscous, v / (2 * h) - viscous,
                                    -v / (2 * h) - viscous, 4 * viscous};
            /* ... and by their psi through the velocity alone */
            const double by_psi[5] = {-w_y / (2 * h), w_y / (2 * h), w_x / (2 * h), -w_x / (2 * h), 0};
            const int r = unknown(i, j);
            double *row = band_row(jacobian, r);
            double residual = 0;
            for (int k = 0; k < 5; k++) {
                const int ni = i + east[k], nj = j + north[k];
                const Stencil s = vorticity_stencil(ni, nj);
                residual += by_w[k] * w[NODE(ni, nj)];
                if (unknown(ni, nj) >= 0)
                    row[unknown(ni, nj)] += by_psi[k];
                for (int t = 0; t < s.n; t++)
                    if (unknown(s.term[t].i, s.term[t].j) >= 0)
                        row[unknown(s.term[t].i, s.term[t].j)] += by_w[k] * s.term[t].weight;
            }
            minus_residual[r] = -residual;
            largest = fmax(largest, fabs(residual) * h * h);
        }
    return largest;
}

/* One step; returns the largest change of psi (NaN where the system could not be solved). */
static double newton_step(double reynolds, double *psi, double *w, Band *jacobian, double *step, double *residual)
{
    double largest = 0;
    vorticity(psi, w);
    *residual = linearise(reynolds, psi, w, jacobian, step);
    band_solve(jacobian, step);
    for (int j = 1; j < cells; j++)
        for (int i = 1; i < cells; i++) {
            const double change = step[unknown(i, j)];
            psi[NODE(i, j)] += change;
            if (!(fabs(change) <= largest))   /* so that NaN is kept, not lost */
                largest = fabs(change);
        }
    return largest;
}

/* ---- the program ----------------------------------------------------------------------------------------------- */

static void *room(size_t n)
{
    void *p = calloc(n, sizeof(double));
    if (!p) {
        fprintf(stderr, "cavity: no memory for %.0f MB; take fewer cells\n", n * sizeof(double) / 1e6);
        exit(2);
    }
    return p;
}

static FILE *table(const char *folder, const char *name, const char *header)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    if (!f) {
        perror(path);
        exit(2);
    }
    fprintf(f, "%s\n", header);
    return f;
}

static void finish(FILE *f, const char *name)
{
    if (ferror(f) | fclose(f)) {   /* a full disk shows here at the latest */
        perror(name);
        exit(2);
    }
}

static void write_flow(const char *folder, const double *psi, const double *w, const double *u, const double *v)
{
    const int middle = cells / 2;
    FILE *f = table(folder, "line_u.csv", "y,u");
    for (int j = 0; j <= cells; j++)
        fprintf(f, "%.10g,%.10g\n", j * h, u[NODE(middle, j)]);
    finish(f, "line_u.csv");

    f = table(folder, "line_v.csv", "x,v");
    for (int i = 0; i <= cells; i++)
        fprintf(f, "%.10g,%.10g\n", i * h, v[NODE(i, middle)]);
    finish(f, "line_v.csv");

    f = table(folder, "field.csv", "x,y,psi,vorticity,u,v");
    for (int j = 0; j <= cells; j++)
        for (int i = 0; i <= cells; i++)
            fprintf(f, "%.6g,%.6g,%.6g,%.6g,%.6g,%.6g\n", i * h, j * h, psi[NODE(i, j)], w[NODE(i, j)], u[NODE(i, j)],
                    v[NODE(i, j)]);
    finish(f, "field.csv");
}

int main(int argc, char **argv)
{
    const double reynolds = argc == 5 ? atof(argv[1]) : 0;
    cells = argc == 5 ? atoi(argv[2]) : 0;
    if (!(reynolds > 0) || cells < 8 || cells > 512 || cells % 2 || atoi(argv[3]) < 1) {
        fprintf(stderr, "usage: cavity REYNOLDS CELLS THREADS FOLDER   (CELLS even, 8 to 512)\n");
        return 2;
    }
#ifdef _OPENMP
    omp_set_num_threads(atoi(argv[3]));
#endif
    h = 1.0 / cells;
    const size_t nodes = (size_t)(cells + 1) * (cells + 1);
    double *psi = room(nodes), *w = room(nodes), *u = room(nodes), *v = room(nodes), *step = room(nodes);
    Band jacobian = {(cells - 1) * (cells - 1), 2 * (cells - 1), NULL};
    jacobian.row0 = room((size_t)jacobian.n * (2 * jacobian.half + 1));

    /* Up to the wanted Reynolds number in strides, from the fluid at rest. */
    int stages = 1;
    while (reynolds / pow(STRIDE_OF_RE, stages - 1) > 100)
        stages++;
    FILE *history = table(argv[4], "history.csv", "step,reynolds,residual,change_of_psi");
    double change = 1, residual;
    for (int stage = 1, steps = 0; stage <= stages; stage++) {
        const double re = reynolds / pow(STRIDE_OF_RE, stages - stage);
        /* A flow on the way is only a first guess for the next: one digit of it is enough. */
        const double enough = stage < stages ? 1e-2 : CONVERGED;
        for (int k = 0; k == 0 || (k < MOST_STEPS && change > enough && isfinite(change)); k++) {
            change = newton_step(re, psi, w, &jacobian, step, &residual);
            fprintf(history, "%d,%g,%.3e,%.3e\n", ++steps, re, residual, change);
            printf("step %2d  Re %-6g  residual %.1e  change of psi %.1e\n", steps, re, residual, change);
            fflush(stdout);
        }
    }
    finish(history, "history.csv");
    if (!(change <= CONVERGED)) {
        fprintf(stderr, "cavity: no convergence at Re %g with %d cells; take more cells\n", reynolds, cells);
        return 1;
    }

    vorticity(psi, w);
    velocity(psi, u, v);
    write_flow(argv[4], psi, w, u, v);
    size_t eye = 0;
    for (size_t k = 0; k < nodes; k++)
        if (psi[k] < psi[eye])
            eye = k;
    printf("primary vortex: psi %.6f at x %.4f, y %.4f\n", psi[eye], eye % (cells + 1) * h, eye / (cells + 1) * h);
    return 0;
}
