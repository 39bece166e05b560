namespace Godwit.Cli;

/// <summary>What godwit returns to the shell.</summary>
internal static class ExitCodes
{
    /// <summary>Done.</summary>
    public const int Ok = 0;

    /// <summary>Tried and failed, refused or cancelled; standard error says why in one line.</summary>
    public const int Failed = 1;

    /// <summary>The command line was wrong; nothing was tried.</summary>
    public const int Usage = 2;
}

/// <summary>Something that the user can understand and mend: printed as one line, without a stack trace.</summary>
internal sealed class CliException(string message, Exception? inner = null) : Exception(message, inner);
