"""Claims that nothing here can test, each with the reason."""

from __future__ import annotations

from benchmarks.claims.claim import Untested

UNTESTED = [
    Untested(
        "adadagrad_norm",
        "O(1/K) with high probability without the smoothness known; the generalisation of small batches.",
        "A rate in the limit cannot be read off a short run; the growing batch is the one of `adadagrad`, which has "
        "rows.",
    ),
    Untested(
        "adagrad",
        "Regret about as good as that of the best fixed step sizes in hindsight.",
        "A bound for the worst case: one problem neither shows nor refutes it.",
    ),
    Untested(
        "adamp",
        "ResNet-50 on ImageNet 76.94 % instead of 76.65 %.",
        "Days of a GPU; the mechanism has a row.",
    ),
    Untested(
        "adamw",
        "The best decay no longer depends on the best rate; Adam generalises about as well as momentum on images.",
        "Takes grids of rates and decays on image networks, for both forms of decay: hours of a GPU.",
    ),
    Untested(
        "alternating",
        "Alternating over modalities, losses and tasks trains one encoder well; experts take the conflicts away.",
        "No number is claimed for it alone; what it does on `shapes_tasks` is in frontier.md.",
    ),
    Untested("champion", "Nothing: parts of other entries, put together here.", "What each brings is in ablation.md."),
    Untested(
        "cyclic_adamw",
        "Restarts reach good weights at any time (SGDR); 0.6301 in AlgoPerf v0.5, where the baseline has 0.5707.",
        "An AlgoPerf score takes all of its workloads; `make bench` with suite `mini` is the nearest thing here.",
    ),
    Untested(
        "diffgrad",
        "ResNet-50 on CIFAR-10 and CIFAR-100 better than with Adam.",
        "Hours of a GPU; by a comment in their code, a fault made the published runs Adam at half the rate.",
    ),
    Untested(
        "drop_muon",
        "Muon's training accuracy up to 1.4 times sooner, on small convolutional networks.",
        "What a backward pass that ends early saves shows where it is most of a step: at batches of 8,192 images, "
        "minutes "
        "a run.",
    ),
    Untested(
        "ema_nesterov",
        "An average of weights at a constant rate takes the place of a decaying one.",
        "No number is claimed, and how good the decaying rate must be is open.",
    ),
    Untested("heavy_ball", "A baseline of AlgoPerf.", "Nothing is claimed for it."),
    Untested(
        "equilibrium_propagation",
        "With the penalty untied weights train: 84.3 % on CIFAR-10 with the exact derivative, 81.4 % with two phases.",
        "Takes the convolutional networks and the epochs of CIFAR-10; layers here are fully connected.",
    ),
    Untested(
        "eva_lora",
        "Faster convergence, and the best average scores among methods with as many parameters.",
        "`adapter_english` has a provisional target, and no tuned comparison on it has been run.",
    ),
    Untested(
        "ist",
        "Better than training all adapters in each step, in less memory.",
        "`adapter_english` has a provisional target, and no tuned comparison on it has been run.",
    ),
    Untested(
        "lamb",
        "BERT with batches of 32,868 at the accuracy of small ones, in 76 minutes.",
        "Data sets here have too few examples for batches of thousands to be large.",
    ),
    Untested(
        "last_layer_refine",
        "Trained shortly and then refined, orders of magnitude more accurate than trained to the end.",
        "Takes the equation's residual as the loss of the second part, and a last layer that gets more waves there.",
    ),
    Untested(
        "lawa_ema",
        "0.3384 in AlgoPerf v0.5.",
        "The submission that was scored had a fault, so that nothing was averaged; the queue has a row.",
    ),
    Untested(
        "lion",
        "Up to 2 % better ViT on ImageNet, up to five times less compute on JFT.",
        "Neither the data nor the machines are here; its state has a row.",
    ),
    Untested(
        "mezo",
        "Fine-tuned language models nearly as good as with gradients: SST-2 91.4 with OPT-13B.",
        "Takes a pre-trained language model of billions of weights, and prompts.",
    ),
    Untested("nadamw", "0.5707 in AlgoPerf v0.5, as the baseline.", "The other methods' claims are made against it."),
    Untested("nesterov", "A baseline of AlgoPerf.", "Nothing is claimed for it."),
    Untested("rmsprop", "A lecture's advice.", "Nothing is claimed for it in numbers."),
    Untested("noise_policy", "Noise that a policy chooses.", "No paper claims anything for it."),
    Untested(
        "noprop",
        "99.5 % on MNIST, as matched networks with back-propagation get, in little more than half of the memory.",
        "Takes a matched network with back-propagation beside it, on MNIST, which does not come with a package.",
    ),
    Untested(
        "schedule_free_adamw_v2",
        "0.7077 in AlgoPerf v0.5's external tuning, second, with these five points.",
        "A score takes all of AlgoPerf's workloads; the rule is the one of `schedule_free_adamw`, which has a row.",
    ),
    Untested(
        "sgdp",
        "ResNet-18 on ImageNet 70.73 % instead of 70.28 %.",
        "Days of a GPU; the mechanism has a row.",
    ),
    Untested(
        "trion",
        "Better than Dion at equal rank: perplexity 15.30 against 15.64 at 350M.",
        "Dion is not among the submissions. How far it is behind Muon has a row.",
    ),
]
