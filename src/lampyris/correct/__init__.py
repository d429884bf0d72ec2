"""correct"""
