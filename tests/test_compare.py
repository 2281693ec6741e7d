"""Comparisons of solvers: evidence less what fitting costs, scores of left-out sensors, averages."""

import numpy as np
import pytest
from problems import EVERY_SOLVER, arguments
from scipy import optimize
from test_together import WINDOW, cov, forward, responses

from calibrain import (
    BMN,
    BMN_joint,
    EvokedPosterior,
    SourceEstimator,
    compare,
    estimate_evoked,
    gamma_lambda_map,
    gamma_map,
    model_average,
    spike_slab,
)
from calibrain.core.archive import data_mark
from calibrain.posterior.result import result_from_arrays, result_to_arrays
from calibrain.solvers.compare import fitting_cost, stacking_weights

FAST = dict(update_mode="fast")


def recording(seed, n_active, n_times=50, noisy=0.25):
    "32 sensors, 100 sources"
    rng = np.random.default_rng(seed)
    L = rng.normal(size=(32, 100))
    L /= np.linalg.norm(L, axis=0)
    x = np.zeros((100, n_times))
    on = rng.choice(100, n_active, replace=False)
    x[on] = 10 * rng.normal(size=(n_active, n_times))
    signal = L @ x
    noise_var = noisy * max(signal.var(), 1.0)
    return L, signal + np.sqrt(noise_var) * rng.normal(size=signal.shape), noise_var


# ---- evidence


@pytest.mark.parametrize("n_active, wins", [(100, "BMN"), (4, "gamma_map"), (0, "BMN")])
def test_nested_models_are_ordered_by_where_the_data_come_from(n_active, wins):
    "BMN is gamma_map with all γ equal: the maximum alone always prefers gamma_map"
    for seed in range(6):
        L, y, noise_var = recording(seed, n_active)
        both = [BMN(L, y, noise_var), gamma_map(L, y, noise_var, **FAST)]
        assert both[1].log_evidence >= both[0].log_evidence - 1e-6
        c = compare(both)
        assert c.best == wins and c.probability.max() > 0.9, (seed, c.rows)


def test_noise_that_is_known_is_not_fitted_for_nothing():
    "Noise of one size: a variance for each sensor, or for all, is not worth fitting"
    for seed in range(6):
        L, y, noise_var = recording(seed, 4)
        given = gamma_map(L, y, noise_var, **FAST)
        learned = gamma_lambda_map(L, y, **FAST)
        assert compare([given, learned]).best == "gamma_map"
        wrong = gamma_map(L, y, 9 * noise_var, **FAST)
        assert compare(dict(wrong=wrong, learned=learned)).best == "learned"


def test_what_is_fitted_is_counted():
    L, y, noise_var = recording(0, 4)
    sparse = gamma_map(L, y, noise_var, **FAST)
    n = len(sparse.active)
    assert sparse.fitted == n
    of_noise = gamma_lambda_map(L, y, **FAST)
    assert of_noise.fitted == len(of_noise.active) + 32
    kept = gamma_lambda_map(L, y, init_lambda=noise_var, learn_lambda=False, **FAST)
    assert kept.fitted == len(kept.active)
    assert (BMN(L, y, noise_var).fitted, BMN_joint(L, y).fitted) == (1, 2)
    given = BMN_joint(L, y, noise_var, learn_noise=False)
    assert given.fitted == 1


def test_units_change_no_difference():
    L, y, noise_var = recording(1, 4)
    a = compare([BMN(L, y, noise_var), gamma_map(L, y, noise_var, **FAST)])
    b = compare([BMN(L, 1e3 * y, 1e6 * noise_var), gamma_map(L, 1e3 * y, 1e6 * noise_var, **FAST)])
    np.testing.assert_allclose(a.difference, b.difference, atol=1e-6)


def test_compressed_time_counts_for_the_whole_recording():
    "γ of a few components is no optimum of all samples: its evidence cannot be the higher one"
    L, y, noise_var = recording(2, 4)
    whole = gamma_map(L, y, noise_var, **FAST)
    few = gamma_map(L, y, noise_var, n_components=3, **FAST)
    c = compare(dict(whole=whole, few=few))
    assert few.log_evidence <= whole.log_evidence
    assert c.corrected[0] == whole.log_evidence - fitting_cost(whole.fitted, 50)


def test_a_sampler_has_no_evidence_to_compare():
    L, y, noise_var = recording(3, 4)
    sampled = spike_slab(L, y, noise_var, n_sweeps=20, n_burn=5)
    c = compare([BMN(L, y, noise_var), gamma_map(L, y, noise_var, **FAST), sampled])
    assert np.isnan(c.log_evidence[2]) and np.isnan(c.probability[2])
    assert np.isclose(np.nansum(c.probability), 1) and "sampled" in c.notes[2]
    assert "sampled" in c._repr_html_()


def test_samplers_alone_are_compared_by_scores():
    L, y, noise_var = recording(3, 4)
    short = dict(n_sweeps=20, n_burn=5)
    one, two = (spike_slab(L, y, noise_var, seed=seed, **short) for seed in (0, 1))
    with pytest.raises(ValueError, match="one answer with an evidence at least"):
        compare([one, two])
    scores = {"spike_slab": np.zeros((3, 4)), "spike_slab (2)": np.full((3, 4), 0.1)}
    c = compare([one, two], scores)
    assert c.best == "spike_slab (2)" and np.isnan(c.difference).all() and c._repr_html_()
    assert "foretells best" in repr(c)


def test_few_samples_are_announced():
    L, y, noise_var = recording(3, 4, n_times=3)
    with pytest.warns(UserWarning, match="3 samples, too few"):
        compare([BMN(L, y, noise_var), gamma_map(L, y, noise_var, **FAST)])


# ---- the same data


@pytest.mark.parametrize("solver", EVERY_SOLVER, ids=lambda s: s.name)
def test_every_solver_marks_its_data(solver):
    L, y, noise_var = recording(4, 4)
    coords = np.random.default_rng(0).normal(scale=0.03, size=(100, 3))
    said = arguments(solver, noise_var, coords, max_iter=20)
    through = SourceEstimator(
        solver.function, {k: v for k, v in said.items() if k != "noise_var"}, said.get("noise_var")
    )
    assert through.fit(L, y).predict().data == data_mark(y)


def test_whitened_data_are_those_that_were_measured():
    L, y, noise_var = recording(4, 4)
    told = SourceEstimator(BMN, noise_var=noise_var).fit(L, y).predict()
    same = SourceEstimator(BMN, noise_cov=noise_var * np.eye(32)).fit(L, y).predict()
    other = SourceEstimator(BMN, noise_cov=2 * noise_var * np.eye(32)).fit(L, y).predict()
    c = compare(dict(told=told, same=same, other=other))
    np.testing.assert_allclose(c.log_evidence[0], c.log_evidence[1], rtol=1e-9)
    assert c.log_evidence[2] < c.log_evidence[1]


def test_a_file_keeps_mark_and_count():
    L, y, noise_var = recording(4, 4)
    r = gamma_map(L, y, noise_var, **FAST)
    back = result_from_arrays({k: np.asarray(v) for k, v in result_to_arrays(r).items()})
    assert (back.data, back.fitted) == (r.data, r.fitted)
    old = {k: v for k, v in result_to_arrays(r).items() if k not in ("fact/data", "fact/fitted")}
    assert result_from_arrays(old).data == "" and result_from_arrays(old).fitted is None


def test_estimates_of_recordings(tmp_path):
    tone, click = responses()
    fwd = forward()
    found = [estimate_evoked(tone, fwd, cov(), s, **WINDOW) for s in ("BMN", "gamma_map")]
    assert compare(found).names == ("BMN", "gamma_map")
    path = tmp_path / "one.npz"
    found[0].save(path)
    assert compare([EvokedPosterior.load(path), found[1]]).best == compare(found).best
    of_click = estimate_evoked(click, fwd, cov(), "BMN", **WINDOW)
    of_fewer = estimate_evoked(tone, fwd, cov(), "BMN", **WINDOW | dict(tmax=0.2))
    picked = estimate_evoked(tone, fwd, cov(), "BMN", picks=tone.ch_names[:20], **WINDOW)
    for other in (of_click, of_fewer, picked, found[0].with_nave(100).then):
        with pytest.raises(ValueError, match="recording"):
            compare([found[0], other])


@pytest.mark.parametrize(
    "results, scores, error, words",
    [
        ("BMN", None, TypeError, "a list or a dict of results"),
        ([1, 2], None, TypeError, "what solvers returned"),
        ("one", None, ValueError, "two at least"),
        ("two", dict(BMN=np.zeros((3, 4))), ValueError, "those of every answer"),
        ("two", dict(BMN=np.zeros((3, 4)), gamma_map=np.zeros((2, 4))), ValueError, "one shape"),
        ("two", dict(BMN=np.zeros((1, 4)), gamma_map=np.zeros((1, 4))), ValueError, "two groups"),
        ("two", dict(BMN=np.zeros(4), gamma_map=np.zeros(4)), ValueError, "scores"),
    ],
)
def test_bad_comparisons(results, scores, error, words):
    L, y, noise_var = recording(4, 4)
    found = [BMN(L, y, noise_var), gamma_map(L, y, noise_var, **FAST)]
    if results in ("one", "two"):
        results = found[: 1 if results == "one" else 2]
    with pytest.raises(error, match=words):
        compare(results, scores)


# ---- stacking


def test_weights_of_stacking_are_the_maximum():
    "Against a search on the simplex; and the concave sum has no better point near by"
    for seed in range(5):
        scores = np.random.default_rng(seed).normal(size=(3, 40))

        def loss(z, scores=scores):
            w = np.exp(z - z.max())
            w /= w.sum()
            return -np.log(w @ np.exp(scores)).mean()

        found = optimize.minimize(loss, np.zeros(3), tol=1e-12)
        w = stacking_weights(scores)
        assert -np.log(w @ np.exp(scores)).mean() <= found.fun + 1e-8
        assert np.isclose(w.sum(), 1) and w.min() >= 0


def test_scores_far_below_zero():
    "Densities of many sensors underflow, their differences do not"
    w = stacking_weights(np.array([[-2000.0, -2400], [-2001, -2300]]))
    np.testing.assert_allclose(w[1], 0.5 / (1 - np.exp(-1)), rtol=1e-4)


# ---- averages


def test_an_average_is_the_mixture_of_its_samples():
    L, y, noise_var = recording(5, 4)
    found = [BMN(L, y, noise_var), spike_slab(L, y, noise_var, n_sweeps=20, n_burn=5)]
    both = model_average(found, [0.4, 0.6])
    mean = 0.4 * found[0].mean + 0.6 * found[1].mean
    np.testing.assert_allclose(both.mean, mean, atol=1e-9)
    draws = both.posterior.sample(4000, seed=0)
    spread = both.std[:, :3]
    np.testing.assert_allclose(draws[:, :, :3].mean(0), mean[:, :3], atol=6 * spread.max() / 60)
    np.testing.assert_allclose(draws[:, :, :3].std(0), spread, atol=0.12 * spread.max())
    assert both.data == found[0].data and np.isnan(both.log_evidence)
    assert "average" in both._repr_html_()
    back = result_from_arrays({k: np.asarray(v) for k, v in result_to_arrays(both).items()})
    np.testing.assert_allclose(back.std, both.std)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_orientations_of_an_average(k):
    rng = np.random.default_rng(k)
    L = rng.normal(size=(20, 12 * k))
    y = rng.normal(size=(20, 15)) * 3
    found = [BMN(L, y, 1.0, k), gamma_map(L, y, 1.0, k, **FAST)]
    both = model_average(found, [0.5, 0.5])
    apart = (found[0].mean - found[1].mean).reshape(12, k, -1) / 2
    within = sum(one.posterior.blocks for one in found) / 2
    between = apart[:, :, None] * apart[:, None]
    np.testing.assert_allclose(both.posterior.blocks, within[..., None] + between, atol=1e-9)


def test_what_cannot_be_averaged():
    L, y, noise_var = recording(5, 4)
    a = BMN(L, y, noise_var)
    with pytest.raises(ValueError, match="same sources"):
        model_average([a, BMN(L[:, :50], y, noise_var)], [0.5, 0.5])
    with pytest.raises(ValueError, match="real"):
        model_average([BMN(L, y + 1j * y, noise_var)], [1.0])
    with pytest.raises(TypeError, match="what solvers returned"):
        model_average([], [])
    wide = np.random.default_rng(0).normal(size=(4, 5100))
    with pytest.raises(ValueError, match="5000 at the most"):
        model_average([BMN(wide, 9 * wide[:, :3], 1.0)], [1.0])


def test_every_sample_that_the_evidence_counts_costs():
    "A complex sample is two; of conditions that were estimated together all count"
    L, y, noise_var = recording(2, 4)
    whole = SourceEstimator("gamma_map", FAST, noise_var)
    fields = (y[:, :25] + 1j * y[:, 25:], y)
    spectra, real = (whole.fit(L, one).predict() for one in fields)
    norms = [SourceEstimator("BMN", noise_var=noise_var).fit(L, one).predict() for one in fields]
    found = [compare(both) for both in zip((spectra, real), norms)]
    np.testing.assert_allclose(found[0].corrected, found[1].corrected)

    both = [
        estimate_evoked(responses(), forward(), cov(), solver, shared=True, **WINDOW)[0]
        for solver in ("BMN", "gamma_map")
    ]
    n_times = 2 * len(both[0].times)
    fitted = [one.result.fitted for one in both]
    np.testing.assert_allclose(compare(both).fitting, [fitting_cost(n, n_times) for n in fitted])


def test_answers_without_any_evidence():
    L, y, _ = recording(2, 4)
    both = [SourceEstimator(name).fit(L, y).predict() for name in ("mxne", "lcmv")]
    with pytest.raises(ValueError, match="one answer with an evidence at least"):
        compare(both)


def test_what_has_no_posterior_is_not_averaged():
    L, y, _ = recording(2, 4)
    both = [SourceEstimator(n).fit(L, y).predict() for n in ("reml", "mxne")]
    of_a_recording = estimate_evoked(responses()[0], forward(), cov(), "BMN", **WINDOW)
    with pytest.raises(TypeError, match=r"with a posterior, got one of mxne"):
        model_average(both, [0.5, 0.5])
    np.testing.assert_allclose(model_average(both, [1, 0]).mean, both[0].mean)
    with pytest.raises(TypeError, match=r"results must .* pass its \.result"):
        model_average([of_a_recording], [1.0])


@pytest.mark.parametrize(
    "name, said, words",
    [
        ("mxne", {}, "solver must be one with a posterior for scores"),
        ("BMN", {}, "noise_var must be given"),
        ("BMN", dict(noise_var=1.0, noise_cov=np.eye(32)), "noise_var must be None"),
        ("BMN_joint", dict(noise_var=1.0), "noise_var must be None where the noise is learned"),
        ("champagne", dict(solver_params=dict(learn_noise=False)), "noise_var must be given"),
    ],
)
def test_what_fit_refuses_is_not_scored(name, said, words):
    L, y, _ = recording(0, 3)
    with pytest.raises(ValueError, match=words):
        SourceEstimator(name, **said).leave_sensors_out(L, y)


def test_what_noise_never_takes_is_not_scored():
    "An estimate is of data without it, too"
    L, y, noise_var = recording(0, 3)
    P = np.eye(32) - 1 / 32
    est = SourceEstimator("BMN", noise_cov=noise_var * P)
    np.testing.assert_allclose(
        est.leave_sensors_out(L, y + 50), est.leave_sensors_out(P @ L, P @ y), rtol=1e-6
    )


def test_conditions_that_were_estimated_together_are_not_the_same_recording():
    tone, click = estimate_evoked(responses(), forward(), cov(), "BMN", shared=True, **WINDOW)
    with pytest.raises(ValueError, match=r"condition 1 of these; .* condition 2 of these"):
        compare([tone, click])
    with pytest.raises(ValueError, match="answers to one recording"):
        model_average([tone.result, click.result], [0.5, 0.5])
