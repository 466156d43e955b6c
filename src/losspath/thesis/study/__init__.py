"""The whole study of the thesis: its runs, its pictures, and what holds of its claims."""
