"What invertmeeg says of recordings: pickles come in, means go out; run by the interpreter that has it"

import pickle
import sys
import warnings

warnings.simplefilter("ignore")


def mean_of(solver, forward, evoked):
    "Amplitudes, Am"
    import mne
    from invert import Solver

    asked = Solver(solver, verbose=0)
    asked.make_inverse_operator(mne.Forward(forward), evoked)
    return asked.apply_inverse_operator(evoked).data


def main():
    out = sys.stdout.buffer
    sys.stdout = sys.stderr  # what packages print is no answer
    while True:
        try:
            question = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = mean_of(*question)
        except Exception as e:
            answer = f"{type(e).__name__}: {e}"
        pickle.dump(answer, out)
        out.flush()


if __name__ == "__main__":
    main()
