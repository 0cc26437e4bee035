"""What the page of the reproduction says beside its numbers: a reason for each outcome.

A reason stands on the page only where its outcome does; what follows from numbers is computed in
`reproduce_page.py`.
"""

from __future__ import annotations

from reproduce_lines import AGREES, DIFFERS, OPEN

INTRO = """\
# Reproduction

What two papers report of Grad-CAM, Grad-CAM++ and Ablation-CAM, measured again with
`onnxcam.evaluate` on what is at hand. Neither the papers' models nor their pictures are, so
that no figure can be the same; what can be held against the papers is which method is ahead,
and by how much.

- {plus}. Its figures (Tables 1 to 3 and 8 to 11) were read in a transcription of that version.
- {ablation}. Its tables were in no text at hand, and none of its figures stands here. What is
  tested is what its abstract says: that it does better than Grad-CAM, and that it tells models
  apart.

`{command}` made this page on {date}, from rows that it keeps in `out/reproduce`. It needs the
checkout's demo models and the shared folder of models and photographs.

## Models and pictures

{studies}
- Scenes are rendered by `tools/scenes.py` from seeds that no model was trained with, 224 pixels
  wide, each with one or three objects of the class that is asked about, one of another class, and
  distractors; masks and boxes are exact. In the tables are those whose class the model gives a
  probability of at least one half: the papers explain what a model says.
- Of labelled photographs the model's best class is explained. Of COCO's, an object whose class is
  among the model's best five, as in the Grad-CAM++ paper; *asked about* counts these.
- FC heads have dense layers on the flattened feature map; GAP heads average it and have one linear
  layer (SqueezeNet: a 1×1 convolution, ReLU, the average). No ImageNet model with an FC head is at
  hand; the CIFAR-10 net is the only FC head that was trained on photographs, of 32 pixels.

## How to read the tables

A cell has both means, first method / second; their difference with its 95 % bootstrap interval;
the p of the paired test (`docs/evaluate.md`), and the verdict. *Agrees*: the difference has the
paper's sign and p < {sure}. *Does not agree*: the opposite sign and p < {sure}. *Open*: p is
larger. p is not corrected for the number of comparisons; of a hundred one is told apart by
chance alone. Win % has the pictures on which either is better by Average Drop, and ties; the
papers' wins have no ties.

## In short

{short}"""

ABOUT = {
    "kept": """\
What the class's probability loses when only L∘I is left of the picture, L being the map. The
paper has Grad-CAM++ ahead throughout, but for % Increase in Tables 2 and 11; the two Win % of
Table 2 add up to 100.91 there, too. First figure Grad-CAM++, second Grad-CAM.""",
    "placed": """\
Loc(δ) is the overlap (intersection over union) of the class's boxes with what is hotter than δ,
the map's smallest value being 0 and its largest 1. The paper's are means over images and
classes. An instance is reached if the heat in its box is at least half of the largest; this is
ours, for the paper's claim that Grad-CAM++ shows all instances. First figure Grad-CAM++, second
Grad-CAM.""",
    "heads": """\
For Ablation-CAM's Tables 1 and 2: the hottest 20, 30 or 50 % of the pixels are kept, the rest
is black; Average Drop and % Increase of the probability, and Average Drop of the activation
score. The paper's figures are not at hand; *agrees* means that Ablation-CAM is ahead. First
figure Ablation-CAM, second Grad-CAM.""",
    "located": """\
Loc(δ) is by boxes, as above, and so is MaxBoxAccV2 (`docs/evaluate.md`), which takes for each
method the threshold that suits it. IoU, energy (the share of all heat that lies on the object)
and pointing game are by the mask of scenes and the boxes of photographs; the pointing game
allows 15 pixels beside the object. *Agrees* means that Ablation-CAM is ahead. First figure
Ablation-CAM, second Grad-CAM.""",
    "selection": """\
Maps of two models of one task, on the pictures that both give the right class. The Ablation-CAM
paper compares AlexNet with VGG-16 by their maps (no figure of it is at hand). The Grad-CAM++
paper notes that Average Drop falls from AlexNet (62.75) over VGG-16 (36.84) to ResNet-50
(28.90), as their errors do. *Agrees* means that the model that is right more often is ahead.
First figure the better model's.""",
    "theory": """\
Mean cosine of a method's maps with those of Grad-CAM, over the first 40 pictures of a set; CAM
where the head allows it.

A GAP head with one linear layer has y = Σ W_k · mean(A_k) + b. The gradient is W_k / (h·w)
wherever in unit k, so that Grad-CAM and CAM are one map up to a factor. Switching unit k off
takes W_k · mean(A_k) from the score: Ablation-CAM's weight is Grad-CAM's times ΣA_k / y. The
signs are the same (for y > 0), but a unit counts for more if it is active on much of the
picture: the maps are alike and not equal. Grad-CAM++'s weight is h·w · g / (2 + g · ΣA_k) where
the gradient g is positive, else 0: negative units are left out. With SqueezeNet's ReLU this
holds only in part; behind dense layers g depends on the place, and what a unit's loss costs is
not its slope.""",
}

_BLACK = """\
Where it agrees with half of the picture kept, look at how the drop goes with the share kept
(below): a map can be 0 on more than half of the picture."""
WHY = {
    "kept": {
        AGREES: """\
Where it agrees: without negative gradients a Grad-CAM++ map is wider (the next section has
widths), and a wider map keeps more of the picture in L∘I.""",
        DIFFERS: """\
Where it does not agree, look at Win % beside the mean, and at what is kept of equal area.""",
        OPEN: """\
Where it is open, the maps are nearly the same (GAP heads, last section) or the pictures few:
the interval says how large a difference may have been missed. % Increase is yes or no for each
picture and tells the least. The score's drop is relative to a score that may be near 0, which
is why the demo AlexNet has means far above 100 %.""",
    },
    "placed": {
        AGREES: """\
Where it agrees, Grad-CAM's map leaves much of the boxes uncovered at that δ, and a wider one
covers more of them. The paper's gap grows with δ, as it would for maps that are too narrow.""",
        DIFFERS: """\
Where it does not agree, a wider map than Grad-CAM's adds more ground than object. At δ = 0 all
heat counts: without negative weights Grad-CAM++ is above its smallest value nearly everywhere.""",
        OPEN: "Where it is open, there are few photographs, or hardly an instance left to reach.",
    },
    "gains": {
        AGREES: "Where the gain is larger with three instances, that is what the paper says.",
        DIFFERS: """\
Where it is smaller: the paper's reason, that Grad-CAM loses instances which take up little of a
feature map, does not show. In both methods a unit has one weight wherever it fires: what fires
at all instances shows them all in either map.""",
        OPEN: "",
    },
    "FC": {
        AGREES: _BLACK,
        DIFFERS: "Where it does not agree, no reason is known to us.",
        OPEN: """\
Where it is open: the demo VGG's maps are much alike (last section). Those of the demo AlexNet
and the CIFAR-10 net are not, and yet neither method keeps the better pixels throughout.""",
    },
    "GAP": {
        AGREES: _BLACK,
        DIFFERS: """\
Where it does not agree, the extra factor in Ablation-CAM's weights (last section) is what
differs.""",
        OPEN: """\
Where it is open: with GAP heads the two methods' maps are nearly the same (last section), so
that no difference is to be expected.""",
    },
    "located": {
        AGREES: """\
Where it agrees in energy the head is mostly FC: there the mean gradient of a unit is taken over
places where the unit is silent, too; switching it off counts only where it is active.""",
        DIFFERS: """\
Where it does not agree in energy the head is mostly GAP: there Grad-CAM's weights are those of
the model, and Ablation-CAM's extra factor ΣA_k favours units that are active on much of the
picture. By overlap the methods differ little, and either is ahead.""",
        OPEN: "Where it is open, there are few photographs, or both methods always hit.",
    },
    "selection": {
        AGREES: """\
Average Drop tells models apart, by the maps of either method. It measures models as much as
maps: one that fails on a picture with black parts has a large drop whatever is kept.""",
        DIFFERS: """\
Energy does not: the weak demo AlexNet's maps are small spots (the widths are above), and a
small spot lies on the object more easily. It tells nothing about how much of the object was
found.""",
        OPEN: """\
Where it is open, few photographs are given the right class by both models, or one object leaves
little room between two maps.""",
    },
}
