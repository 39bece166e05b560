namespace Godwit.Vfio;

/// <summary>
/// The device's log of its writes cannot be had or trusted any more, so a migration cannot be right (dirty-tracking rule 10). The text names
/// the device and what it answered.
/// </summary>
public sealed class DirtyLogLostException(string message, Exception? inner = null) : IOException(message, inner);
