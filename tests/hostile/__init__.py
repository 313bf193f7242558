"""Keys, contents and stored objects by somebody who means harm, or a machine that breaks them."""
