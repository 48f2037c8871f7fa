# `make quick` goes from nothing to samples to look at, `make demo` to a report, `make test` proves the parts. All set
# themselves up. The same without make stands in the README.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
QUICK ?= quick
DEMO ?= demo

.PHONY: quick demo test clean
.DELETE_ON_ERROR:

$(VENV)/.ready: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	touch $@

test: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m pytest

# Five minutes of one CPU core: four classes, no critic, no evaluation.
quick: $(VENV)/.ready
	$(PY) simulate.py --output_dir $(QUICK)/data --classes walking running falling boxing --samples_per_class 50 \
	    --image_size 64 --colormap jet
	$(PY) train_vqvae.py --data_dir $(QUICK)/data --output_dir $(QUICK)/vqgan --image_size 64 --colormap jet \
	    --block_out_channels 32 32 64 --layers_per_block 1 --batch_size 16 --epochs 14 --lr 1e-3 \
	    --perceptual_loss_weight 0 --g_loss_adv_weight 0 --validation_epochs 7
	$(PY) train_ldm.py --data_dir $(QUICK)/data --vqgan_path $(QUICK)/vqgan/vqgan_epoch_14.pt \
	    --output_dir $(QUICK)/ldm --unet_channels 32 64 128 --norm_num_groups 16 --unet_layers_per_block 1 \
	    --attention_levels 1 --batch_size 16 --epochs 48 --lr 1e-3 --validation_epochs 16 --save_epochs 16
	$(PY) sample.py --ldm_path $(QUICK)/ldm/ldm_epoch_48.pt --output_dir $(QUICK)/augmented --samples_per_class 8 \
	    --guidance_scale 1.5 --guide_path $(QUICK)/ldm/ldm_guide.pt
	@echo "Compare $(QUICK)/augmented/overview.png with $(QUICK)/data/overview.png."

# Small enough for two CPU cores and a quarter of an hour. Every step resumes or skips what is done already.
demo: $(VENV)/.ready
	$(PY) simulate.py --output_dir $(DEMO)/data --samples_per_class 80 --image_size 64
	$(PY) train_vqvae.py --data_dir $(DEMO)/data --output_dir $(DEMO)/vqgan --image_size 64 --in_channels 1 \
	    --block_out_channels 32 32 64 --layers_per_block 1 --batch_size 16 --epochs 9 --lr 4e-4 --disc_lr 2e-4 \
	    --perceptual_loss_weight 0 --disc_channels 16 --disc_layers 2 --disc_start 0.5 \
	    --test_fraction 0.2 --validation_epochs 3 --save_epochs 3
	$(PY) train_ldm.py --data_dir $(DEMO)/data --vqgan_path $(DEMO)/vqgan/vqgan_epoch_9.pt \
	    --output_dir $(DEMO)/ldm --unet_channels 32 64 128 --norm_num_groups 16 --unet_layers_per_block 1 \
	    --attention_levels 1 --batch_size 16 --epochs 36 --lr 1e-3 --validation_epochs 12 --save_epochs 12
	$(PY) sample.py --ldm_path $(DEMO)/ldm/ldm_epoch_36.pt --output_dir $(DEMO)/augmented --samples_per_class 30 \
	    --guidance_scale 1.5 --guide_path $(DEMO)/ldm/ldm_guide.pt
	$(PY) evaluate.py --data_dir $(DEMO)/data --synthetic $(DEMO)/augmented --output_dir $(DEMO)/report \
	    --classifier small --steps 150 --seeds 3
	@echo "Look at $(DEMO)/report/grid.png and open $(DEMO)/report/report.html in a browser."

clean:
	rm -rf $(VENV) $(QUICK) $(DEMO)
