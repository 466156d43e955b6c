"""The reference networks, data sets and training: ordinary users of the public interface."""
