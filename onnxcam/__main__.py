"""`python -m onnxcam` is `onnxcam`."""

from onnxcam.cli import main

if __name__ == "__main__":
    main(prog_name="onnxcam")
